// The operations of simd.h behind plain functions, one table per ISA (simd_probe.inl).
//
// No inline functions here: this header is compiled with every ISA's flags.
#pragma once

#include <cstdint>

namespace pythia_rt::conformance {

constexpr int kProbeTiles = 16;

// The operands of one call; every operation takes what it needs.
struct SimdCase {
  float a[16], b[16], c[16], d[16];     // any value but NaN
  float rounding[16];                   // magnitudes below 2^31, many of them halfway
  float exponents[16];                  // at most 88
  int32_t integers[16];                 // magnitudes up to 2^26
  int32_t powers[16];                   // -126..127
  int32_t bytes_range[16];              // -128..127
  int32_t indices[16];                  // 0..15
  uint16_t halves[16];                  // any 16 bits that are no NaN as f16 and bf16
  uint8_t wide[64 * kProbeTiles];       // 1..255
  uint8_t narrow[64 * kProbeTiles];     // 0..127
  uint8_t codes[64];                    // any byte
  uint8_t table[16];                    // 0..127
  int8_t activations[4 * kProbeTiles];  // -127..127
  int32_t activation_sum;
  int64_t count;  // 0..17, how many lanes partial operations touch
};

// What came out: 16 words, or less; the rest stays 0.
struct SimdResult {
  uint32_t word[16];
};

struct SimdOperation {
  const char* name;
  bool is_float;  // words are f32, so that any NaN equals any other
  // `edge` is the end of 4 KiB of memory behind which there is none.
  void (*run)(const SimdCase& given, unsigned char* edge, SimdResult* result);
};

struct SimdProbe {
  const char* isa;
  const SimdOperation* operations;
  int count;
};

}  // namespace pythia_rt::conformance
