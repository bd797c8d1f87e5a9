// Kernels that work on each row of activations by itself: quantise, rotate, softmax.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "guarded.h"
#include "kernel_checks.h"
#include "random.h"

namespace pythia_rt::conformance {

namespace {

constexpr int64_t kRows = 5;

// Values whose magnitude differs from group to group: zeros, subnormals, ones, huge ones.
Guarded<float> rows_of_any_magnitude(int64_t width, int64_t stride, Random& random) {
  static constexpr float kMagnitudes[] = {1.0f, 0.0f, 1e-40f, 1e-37f, 2e-36f, 1e-4f, 1e4f, 1e36f};
  Guarded<float> rows(kRows * stride);
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t i = 0; i < width; ++i) {
      const auto pick = static_cast<size_t>((row * 3 + i / kColumnGroup) % 8);
      rows[row * stride + i] = kMagnitudes[pick] * random.normal();
    }
  }
  return rows;
}

struct Codes {
  Guarded<int8_t> codes;
  Guarded<float> scales;
  Guarded<int32_t> sums;
};

Codes run_quantise(const KernelTable& table, const Guarded<float>& in, int64_t stride,
                   int64_t groups) {
  Codes out{Guarded<int8_t>(kRows * stride), Guarded<float>(kRows * groups),
            Guarded<int32_t>(kRows * groups)};
  QuantiseArguments arguments{};
  arguments.in = in.data();
  arguments.stride = stride;
  arguments.groups = groups;
  arguments.out = {out.codes.data(), arguments.stride, out.scales.data(), out.sums.data()};
  for (int64_t row = 0; row < kRows; row += 2) {
    arguments.row_begin = row;
    arguments.row_end = std::min(row + 2, kRows);
    table.quantise(arguments);
  }
  return out;
}

// Every value is within half a step of code * scale, and the largest of a group is at +-127.
std::string quantise_truth(const Codes& found, const Guarded<float>& in, int64_t stride,
                           int64_t groups) {
  for (int64_t index = 0; index < kRows * groups; ++index) {
    const int64_t first = index / groups * stride + index % groups * kColumnGroup;
    const double scale = found.scales[index];
    int32_t sum = 0;
    int largest = 0;
    double largest_in = 0;
    for (int64_t i = first; i < first + kColumnGroup; ++i) {
      const double x = in[i];
      const double error = std::fabs(x - found.codes[i] * scale);
      sum += found.codes[i];
      largest = std::max(largest, std::abs(static_cast<int>(found.codes[i])));
      largest_in = std::max(largest_in, std::fabs(x));
      if (error > scale * (0.5 + 127 * 4 * kUnit) && std::fabs(x) >= 1e-36) {
        return text("value ", x, " became ", found.codes[i] * scale, ", step ", scale);
      }
    }
    if (sum != found.sums[index]) return text("a sum is ", found.sums[index], ", truth ", sum);
    if (largest != (largest_in < 1e-36 ? 0 : 127))
      return text("a group's largest code is ", largest);
  }
  return "";
}

}  // namespace

void check_quantise(const KernelTable& table, const KernelTable& scalar, Checks& checks) {
  std::string equality, truth;
  Random random(5);
  for (const int64_t width : {1, 63, 64, 65, 200, 640}) {
    const int64_t stride = round_up(width, 64), groups = stride / kColumnGroup;
    const Guarded<float> in = rows_of_any_magnitude(width, stride, random);
    const Codes found = run_quantise(table, in, stride, groups);
    const Codes expected = run_quantise(scalar, in, stride, groups);
    if (equality.empty()) {
      equality = difference(found.codes.data(), expected.codes.data(), found.codes.size()) +
                 difference(found.scales.data(), expected.scales.data(), found.scales.size()) +
                 difference(found.sums.data(), expected.sums.data(), found.sums.size());
    }
    checks.fold(found.codes.data(), found.codes.size());
    checks.fold(found.scales.data(), found.scales.size());
    if (truth.empty()) truth = quantise_truth(found, in, stride, groups);
  }
  checks.report("quantise equals scalar", equality);
  checks.report("quantise is accurate", truth);
}

void check_rotate(const KernelTable& table, const KernelTable& scalar, Checks& checks) {
  struct Shape {
    int64_t head_dim, rotary_dim;
  };
  constexpr int64_t kHeads = 3;
  std::string equality, truth;
  Random random(7);
  for (const Shape& shape :
       {Shape{32, 8}, Shape{64, 64}, Shape{80, 20}, Shape{7, 6}, Shape{5, 0}}) {
    const int64_t half = shape.rotary_dim / 2;
    Guarded<float> cosines(half), sines(half), row(kHeads * shape.head_dim);
    for (int64_t i = 0; i < half; ++i) {
      cosines[i] = 2 * random.uniform() - 1;  // not from libm, whose last bit differs by machine
      sines[i] = std::sqrt(1 - cosines[i] * cosines[i]);
    }
    for (int64_t i = 0; i < row.size(); ++i) row[i] = random.normal();
    Guarded<float> found(std::vector<float>(row.data(), row.end()));
    Guarded<float> expected(std::vector<float>(row.data(), row.end()));
    std::vector<double> exact(row.data(), row.end());
    constexpr int64_t kHead = kHeads - 1;
    for (int64_t i = 0; i < half; ++i) {
      const auto first = static_cast<size_t>(kHead * shape.head_dim + i);
      const auto second = first + static_cast<size_t>(half);
      const double x = exact[first], y = exact[second];
      exact[first] = x * cosines[i] - y * sines[i];
      exact[second] = y * cosines[i] + x * sines[i];
    }
    RopeArguments arguments{found.data(),     cosines.data(), sines.data(),
                            shape.rotary_dim, shape.head_dim, kHead};
    table.rotate(arguments);
    arguments.query_key_value = expected.data();
    scalar.rotate(arguments);
    if (equality.empty()) equality = difference(found.data(), expected.data(), found.size());
    checks.fold(found.data(), found.size());
    if (truth.empty()) truth = distance(found.data(), exact.data(), found.size(), 32 * kUnit);
  }
  checks.report("rotate equals scalar", equality);
  checks.report("rotate is accurate", truth);
}

namespace {

// The largest of n logits and the sum of e^(logit - largest), run by run.
void run_softmax(const KernelTable& table, const float* logits, int64_t n, float* found) {
  std::vector<float> largest, sums;
  for (int64_t begin = 0; begin < n; begin += kSoftmaxRun) {
    table.softmax_run(logits + begin, std::min(kSoftmaxRun, n - begin), &largest.emplace_back(),
                      &sums.emplace_back());
  }
  table.softmax_merge(largest.data(), sums.data(), static_cast<int64_t>(sums.size()), &found[0],
                      &found[1]);
}

}  // namespace

// The bound: the logits lose half a unit in their last place to the subtractions, of a run's
// largest and of the row's; the 16 lanes are summed in runs of 32, and those in as many lanes.
void check_softmax(const KernelTable& table, const KernelTable& scalar, Checks& checks) {
  std::string equality, truth;
  Random random(9);
  for (const int64_t n : {1, 15, 16, 17, 1000, 1024, 1025, 50277}) {
    Guarded<float> logits(n);
    for (int64_t i = 0; i < n; ++i) logits[i] = 5 * random.normal() + (n % 2 == 0 ? 30.0f : -30.0f);
    float found[2], expected[2];
    run_softmax(table, logits.data(), n, found);
    run_softmax(scalar, logits.data(), n, expected);
    if (equality.empty()) equality = difference(found, expected, 2);
    checks.fold(found, 2);
    const double largest = *std::max_element(logits.data(), logits.end());
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += std::exp(logits[i] - largest);
    const double additions = static_cast<double>(32 + 4 + n / kSoftmaxRun / 16 + 4);
    if (truth.empty()) truth = distance(&found[0], &largest, 1, 0);
    if (truth.empty()) truth = distance(&found[1], &sum, 1, sum * kUnit * (additions + 64));
  }
  checks.report("softmax equals scalar", equality);
  checks.report("softmax is accurate", truth);
}

}  // namespace pythia_rt::conformance
