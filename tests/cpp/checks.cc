#include "checks.h"

#include <cmath>
#include <cstdio>

#include "base/error.h"
#include "base/half.h"

namespace pythia_rt::conformance {

namespace {

template <typename T>
bool same(T a, T b) {
  return a == b;
}
template <>
bool same(float a, float b) {
  return float_bits(a) == float_bits(b) || (std::isnan(a) && std::isnan(b));
}

std::string shown(int32_t value) { return text(value); }
std::string shown(float value) {
  char buffer[48];
  std::snprintf(buffer, sizeof buffer, "%.9g (%08x)", static_cast<double>(value),
                static_cast<unsigned>(float_bits(value)));
  return buffer;
}

template <typename T>
std::string first_difference(const T* found, const T* expected, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (!same(found[i], expected[i])) {
      return text("at ", i, ": ", shown(found[i]), ", expected ", shown(expected[i]));
    }
  }
  return "";
}

}  // namespace

void Checks::report(const std::string& name, const std::string& problem) {
  ++(problem.empty() ? passed_ : failed_);
  std::printf("%-7s %s: %s\n", isa_.c_str(), name.c_str(),
              problem.empty() ? "ok" : ("FAILED, " + problem).c_str());
}

void Checks::fold_bytes(const unsigned char* bytes, int64_t count) {
  for (int64_t i = 0; i < count; ++i) digest_ = (digest_ ^ bytes[i]) * 0x100000001b3u;
}

std::string difference(const float* found, const float* expected, int64_t count) {
  return first_difference(found, expected, count);
}
std::string difference(const int32_t* found, const int32_t* expected, int64_t count) {
  return first_difference(found, expected, count);
}
std::string difference(const int8_t* found, const int8_t* expected, int64_t count) {
  return first_difference(found, expected, count);
}
std::string difference(const uint16_t* found, const uint16_t* expected, int64_t count) {
  return first_difference(found, expected, count);
}

std::string distance(const float* found, const double* truth, int64_t count, double tolerance) {
  for (int64_t i = 0; i < count; ++i) {
    const double error = std::fabs(static_cast<double>(found[i]) - truth[i]);
    if (!(error <= tolerance)) {  // also for a NaN
      return text("at ", i, ": ", found[i], ", truth ", truth[i], ", tolerance ", tolerance);
    }
  }
  return "";
}

}  // namespace pythia_rt::conformance
