// q8: signed 8 bits with an f16 scale per row and group of 64 columns; 8.25 bits per weight.
//
//   weight [row_blocks][groups][kGroupBytes] of code + 128, see group_layout.h
//   scales [row_blocks][groups][16 rows] f16
//   value  = code * scale, code in [-127, 127]
//
// -128 is never a code: |code| <= 127 is what keeps AVX2's 16-bit sums of two products from
// saturating. Codes are stored unsigned because VNNI multiplies unsigned by signed bytes.
#pragma once

#include <cmath>
#include <cstring>

#include "base/half.h"
#include "formats/group_layout.h"
#include "formats/matrix.h"

namespace pythia_rt {

// To the nearest integer, ties to even, for |value| < 2^22: the sum has no room for a fraction.
inline int round_to_int(float value) {
  constexpr float kNoFraction = 12582912.0f;  // 1.5 * 2^23
  return static_cast<int>((value + kNoFraction) - kNoFraction);
}

struct Q8 {
  static constexpr int kBits = 8;
  using Layout = GroupLayout<kBits>;
  static constexpr const char* kName = "q8";
  static constexpr const char* kType = "U8";
  static constexpr bool kQuantised = true;
  static constexpr bool kSquareScales = false;
  static constexpr const uint8_t* kTable = nullptr;
  static constexpr int kOffset = Layout::kOffset;
  static constexpr int kCodes = 256;
  static constexpr int64_t kGroupBytes = Layout::kGroupBytes;

  static constexpr int level(int code) { return code - kOffset; }

  // The largest value becomes the largest code: whatever is important, nothing is cut off.
  static void fit(const float* values, int64_t stride, int64_t groups, const float* /*importance*/,
                  FitScales /*fit_scales*/, float* scales) {
    for (int64_t group = 0; group < groups; ++group) {
      for (int64_t row = 0; row < kRowBlock; ++row) {
        const float* in = values + row * stride + group * kColumnGroup;
        scales[group * kRowBlock + row] = largest_magnitude(in) / 127.0f;
      }
    }
  }

  // Of a group's 64 values. The bits of magnitudes are ordered as they are, and compilers make
  // vectors of a search among whole numbers.
  static float largest_magnitude(const float* values) {
    int32_t largest = 0;
    for (int i = 0; i < kColumnGroup; ++i) {
      const auto magnitude = static_cast<int32_t>(float_bits(values[i]) & 0x7fffffffu);
      largest = magnitude > largest ? magnitude : largest;
    }
    return float_from_bits(static_cast<uint32_t>(largest));
  }

  static float unit(const float* /*scales*/, int64_t /*groups*/) { return 1.0f; }

  static void round_scales(float* scales, int64_t groups, float /*unit*/) {
    for (int64_t i = 0; i < groups * kRowBlock; ++i) {
      scales[i] = float_from_half(half_from_float(scales[i]));
    }
  }

  static uint8_t encode(float value, float scale) {
    // The scale was rounded, so the largest value may fall a little beyond the last code.
    const float code = scale > 0 ? value / scale : 0.0f;
    const float above = code < -127.0f ? -127.0f : code;
    const float bounded = above > 127.0f ? 127.0f : above;
    return static_cast<uint8_t>(round_to_int(bounded) + kOffset);
  }

  // Codes [16 rows][stride] and rounded scales [groups][16] into the stored parts of a row block.
  static void store_row_block(const uint8_t* codes, int64_t stride, int64_t groups,
                              const float* scales, float /*unit*/, const PackedBlock& out) {
    auto* tiles = static_cast<uint8_t*>(out.weight);
    auto* halves = static_cast<uint16_t*>(out.scales);
    for (int64_t i = 0; i < groups * kRowBlock; ++i) halves[i] = half_from_float(scales[i]);
    for (int64_t column = 0; column < groups * kColumnGroup; column += kTileColumns) {
      for (int64_t row = 0; row < kRowBlock; ++row) {
        std::memcpy(tiles + tile_byte(row, column), codes + row * stride + column, kTileColumns);
      }
    }
  }

  static void unpack_row(const Matrix& matrix, int64_t row, float* out) {
    const int64_t block = row / kRowBlock;
    const auto* tiles =
        static_cast<const uint8_t*>(matrix.weight) + block * matrix.groups() * kGroupBytes;
    const auto* scales = static_cast<const uint16_t*>(matrix.scales) +
                         block * matrix.groups() * kRowBlock + row % kRowBlock;
    for (int64_t column = 0; column < matrix.columns; ++column) {
      const float scale = float_from_half(scales[column / kColumnGroup * kRowBlock]);
      const int code = tiles[tile_byte(row % kRowBlock, column)] - kOffset;
      out[column] = static_cast<float>(code) * scale;
    }
  }
};

}  // namespace pythia_rt
