// Counts and reports checks: one line each, "isa subject name: ok" or what went wrong.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

namespace pythia_rt::conformance {

class Checks {
 public:
  explicit Checks(std::string isa) : isa_(std::move(isa)) {}

  // `problem` is empty for a check that passed.
  void report(const std::string& name, const std::string& problem);

  // Adds results to the digest: two machines whose digests agree computed the same bits.
  template <typename T>
  void fold(const T* values, int64_t count) {
    fold_bytes(reinterpret_cast<const unsigned char*>(values),
               count * static_cast<int64_t>(sizeof(T)));
  }
  uint64_t digest() const { return digest_; }

  int passed() const { return passed_; }
  int failed() const { return failed_; }

 private:
  void fold_bytes(const unsigned char* bytes, int64_t count);

  std::string isa_;
  uint64_t digest_ = 0xcbf29ce484222325u;  // FNV-1a
  int passed_ = 0;
  int failed_ = 0;
};

// The first difference between two arrays as "at 3: 1.5 (3fc00000), expected ...", or "". Floats
// are compared bit for bit, except that any NaN equals any other: their bits are the processor's.
std::string difference(const float* found, const float* expected, int64_t count);
std::string difference(const int32_t* found, const int32_t* expected, int64_t count);
std::string difference(const int8_t* found, const int8_t* expected, int64_t count);
std::string difference(const uint16_t* found, const uint16_t* expected, int64_t count);

// The first value further than `tolerance` from the truth, or "".
std::string distance(const float* found, const double* truth, int64_t count, double tolerance);

}  // namespace pythia_rt::conformance
