// f32, f16 and bf16: one value per weight, k-major inside a block of 16 rows. Nothing is lost but
// what the 16-bit types round away.
//
//   weight [row_blocks][padded_columns][16 rows]
#pragma once

#include "base/half.h"
#include "formats/matrix.h"

namespace pythia_rt {

template <typename Stored, Stored (*kEncode)(float), float (*kDecode)(Stored)>
struct FloatFormat {
  using Value = Stored;  // of one weight
  static constexpr bool kQuantised = false;
  static constexpr const uint8_t* kTable = nullptr;
  static constexpr int64_t kGroupBytes = kRowBlock * kColumnGroup * sizeof(Stored);

  // values: [16][stride] f32, `groups` whole groups of columns, zero-padded.
  static void pack_row_block(const float* values, int64_t stride, int64_t groups, void* weight) {
    auto* out = static_cast<Stored*>(weight);
    for (int64_t column = 0; column < groups * kColumnGroup; ++column) {
      for (int64_t row = 0; row < kRowBlock; ++row) *out++ = kEncode(values[row * stride + column]);
    }
  }

  static void unpack_row(const Matrix& matrix, int64_t row, float* out) {
    const auto* block = static_cast<const Stored*>(matrix.weight) +
                        row / kRowBlock * matrix.padded_columns() * kRowBlock + row % kRowBlock;
    for (int64_t column = 0; column < matrix.columns; ++column) {
      out[column] = kDecode(block[column * kRowBlock]);
    }
  }
};

inline float same_float(float value) { return value; }

struct F32 : FloatFormat<float, same_float, same_float> {
  static constexpr const char* kName = "f32";
  static constexpr const char* kType = "F32";  // the safetensors name of the stored type
};
struct F16 : FloatFormat<uint16_t, half_from_float, float_from_half> {
  static constexpr const char* kName = "f16";
  static constexpr const char* kType = "F16";
};
struct Bf16 : FloatFormat<uint16_t, bfloat_from_float, float_from_bfloat> {
  static constexpr const char* kName = "bf16";
  static constexpr const char* kType = "BF16";
};

}  // namespace pythia_rt
