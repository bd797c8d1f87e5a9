#include "simd_checks.h"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "base/error.h"
#include "base/half.h"
#include "guarded.h"
#include "kernel_checks.h"
#include "simd_cases.h"

namespace pythia_rt::conformance {

namespace {

constexpr int kCases = 2000;

class Caller {
 public:
  explicit Caller(const SimdProbe& probe) : probe_(probe), page_(4096) {}

  SimdResult run(const SimdOperation& operation, const SimdCase& given) const {
    SimdResult result = {};
    operation.run(given, page_.end(), &result);
    return result;
  }
  SimdResult run(const std::string& name, const SimdCase& given) const {
    for (int i = 0; i < probe_.count; ++i) {
      if (name == probe_.operations[i].name) return run(probe_.operations[i], given);
    }
    throw std::logic_error("the probe has no operation " + name);
  }

 private:
  const SimdProbe& probe_;
  Guarded<unsigned char> page_;
};

template <typename T>
const T* words(const SimdResult& result) {
  return reinterpret_cast<const T*>(result.word);
}

void check_against_scalar(const SimdProbe& probe, const SimdProbe& scalar,
                          const std::vector<SimdCase>& cases, Checks& checks) {
  const Caller caller(probe), reference(scalar);
  for (int i = 0; i < probe.count; ++i) {
    const SimdOperation& operation = probe.operations[i];
    std::string problem;
    for (size_t index = 0; index < cases.size() && problem.empty(); ++index) {
      const SimdResult found = caller.run(operation, cases[index]);
      const SimdResult expected = reference.run(scalar.operations[i], cases[index]);
      problem = operation.is_float
                    ? difference(words<float>(found), words<float>(expected), 16)
                    : difference(words<int32_t>(found), words<int32_t>(expected), 16);
      if (!problem.empty()) problem = text("case ", index, " ", problem);
    }
    checks.report(text("simd ", operation.name, " equals scalar"), problem);
  }
}

// All 65536 halves to f32; and every finite half, its upper neighbour's midpoint and the floats
// around that midpoint back to f16.
void check_half_conversions(const SimdProbe& probe, Checks& checks) {
  const Caller caller(probe);
  std::string to_float, to_half, from_bfloat;
  for (uint32_t first = 0; first < 65536; first += 16) {
    SimdCase given = {};
    float wide[16], wide_bfloat[16];
    for (uint32_t i = 0; i < 16; ++i) {
      given.halves[i] = static_cast<uint16_t>(first + i);
      wide[i] = float_from_half(given.halves[i]);
      wide_bfloat[i] = float_from_bfloat(given.halves[i]);
    }
    if (to_float.empty()) {
      to_float = difference(words<float>(caller.run("load_f16", given)), wide, 16);
    }
    if (from_bfloat.empty()) {
      from_bfloat = difference(words<float>(caller.run("load_bf16", given)), wide_bfloat, 16);
    }
    for (int shift = -1; shift <= 2 && to_half.empty(); ++shift) {
      uint16_t expected[16];
      for (int i = 0; i < 16; ++i) {
        const float next = float_from_half(static_cast<uint16_t>(given.halves[i] + 1));
        const float middle = (wide[i] + next) / 2;  // exact in f32
        const float value = shift == 2   ? wide[i]
                            : shift == 0 ? middle
                                         : std::nextafter(middle, shift < 0 ? wide[i] : next);
        given.a[i] = std::isnan(value) ? 0.0f : value;
        expected[i] = half_from_float(given.a[i]);
      }
      const SimdResult found = caller.run("store_f16", given);
      to_half = difference(words<uint16_t>(found), expected, 16);
    }
  }
  checks.report("simd load_f16, all 65536 values", to_float);
  checks.report("simd load_bf16, all 65536 values", from_bfloat);
  checks.report("simd store_f16, every value, midpoint and neighbours of midpoints", to_half);
}

// The group dot products against plain integers.
void check_dots(const SimdProbe& probe, const std::vector<SimdCase>& cases, Checks& checks) {
  const Caller caller(probe);
  std::string wide, narrow;
  for (const SimdCase& given : cases) {
    int32_t expected_wide[16] = {}, expected_narrow[16] = {};
    for (int i = 0; i < 64 * kProbeTiles; ++i) {
      const int activation = given.activations[i / 64 * 4 + i % 4];
      expected_wide[i % 64 / 4] += (given.wide[i] - 128) * activation;
      expected_narrow[i % 64 / 4] += (given.narrow[i] - 64) * activation;
    }
    const SimdResult found_wide = caller.run("wide_dot", given);
    const SimdResult found_narrow = caller.run("narrow_dot", given);
    if (wide.empty()) wide = difference(words<int32_t>(found_wide), expected_wide, 16);
    if (narrow.empty()) narrow = difference(words<int32_t>(found_narrow), expected_narrow, 16);
  }
  checks.report("simd wide_dot is exact, extremes included", wide);
  checks.report("simd narrow_dot is exact, extremes included", narrow);
}

// A function over [low, high] against its double: |error| <= relative |truth| + absolute.
void check_function(const Caller& caller, const char* name, double (*truth)(double), double low,
                    double high, double relative, double absolute, Checks& checks) {
  std::string problem;
  constexpr int kSteps = 20000;
  for (int step = 0; step < kSteps && problem.empty(); ++step) {
    const auto x = static_cast<float>(low + (high - low) * step / (kSteps - 1));
    SimdCase given = {};
    for (int i = 0; i < 16; ++i) given.a[i] = given.exponents[i] = x;
    const SimdResult result = caller.run(name, given);
    const double exact = truth(static_cast<double>(x));
    problem = distance(words<float>(result), &exact, 1, relative * std::fabs(exact) + absolute);
    if (!problem.empty()) problem = text("x = ", x, " ", problem);
  }
  checks.report(text("simd ", name, " is accurate"), problem);
}

// Far from zero the values are those of the limits, and a NaN is passed on.
void check_extremes(const Caller& caller, const char* name, double (*truth)(double),
                    Checks& checks) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  SimdCase given = {};
  const float values[] = {kLargest, 1e5f,  200.0f,    kInfinity,  0.0f,
                          -200.0f,  -1e5f, -kLargest, -kInfinity, std::nanf("")};
  std::string problem;
  for (const float x : values) {
    for (float& a : given.a) a = x;
    const float found = words<float>(caller.run(name, given))[0];
    const double exact = truth(static_cast<double>(x));
    const bool good = std::isnan(x)       ? std::isnan(found)
                      : std::isinf(exact) ? static_cast<double>(found) == exact
                                          : std::fabs(static_cast<double>(found) - exact) <= 1e-36;
    if (!good) problem = text("x = ", x, ": ", found, ", truth ", exact);
  }
  checks.report(text("simd ", name, " far from zero"), problem);
}

void check_functions(const SimdProbe& probe, Checks& checks) {
  const Caller caller(probe);
  check_function(caller, "exp", std::exp, -86.9, 88.0, 2.5e-7, 0.0, checks);
  check_function(caller, "gelu", exact_gelu, -12.0, 12.0, 4e-7, 2e-7, checks);
  check_function(caller, "gelu_tanh", exact_gelu_tanh, -12.0, 12.0, 1e-6, 2e-7, checks);
  check_function(caller, "silu", exact_silu, -95.0, 95.0, 4e-7, 1e-36, checks);
  check_function(caller, "relu", exact_relu, -12.0, 12.0, 0.0, 0.0, checks);
  check_extremes(caller, "silu", exact_silu, checks);
  check_extremes(caller, "relu", exact_relu, checks);
}

}  // namespace

void check_simd(const SimdProbe& probe, const SimdProbe& scalar, Checks& checks) {
  Random random(1);
  std::vector<SimdCase> cases;
  for (int index = 0; index < kCases; ++index) cases.push_back(simd_case(index, random));
  check_against_scalar(probe, scalar, cases, checks);
  check_half_conversions(probe, checks);
  check_dots(probe, cases, checks);
  check_functions(probe, checks);
}

}  // namespace pythia_rt::conformance
