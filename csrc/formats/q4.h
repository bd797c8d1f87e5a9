// q4: 4 bits through a table of 16 values, with an f16 scale per row and group of 64 columns;
// 4.25 bits per weight.
//
//   weight [row_blocks][padded_columns / 8][64 bytes]: byte 4 * row + c holds the code of column c
//          in its low nibble and that of column 4 + c in its high one
//   scales [row_blocks][groups][16 rows] f16; may be negative, since the table is not symmetric
//   value  = (table[code] - 64) * scale
//
// The table is finer around zero, where weights are dense. Its entries lie in 0..127: with the
// offset taken off that is a 7-bit grid, and AVX2's 16-bit sum of two products, at most
// 2 * 127 * 127, can't saturate.
#pragma once

#include <array>

#include "base/half.h"
#include "formats/matrix.h"

namespace pythia_rt {

struct Q4 {
  static constexpr const char* kName = "q4";
  static constexpr const char* kType = "U8";
  static constexpr bool kQuantised = true;
  static constexpr int kOffset = 64;
  static constexpr int kTileColumns = 8;
  static constexpr int64_t kGroupBytes = kRowBlock * kColumnGroup / 2;
  // Fitted to trained weights and to normal and Student-t samples, each group scaled as pack_group
  // does: -63 -45 -35 -27 -20 -14 -9 -4 1 6 12 18 25 33 43 56.
  static constexpr uint8_t kTable[16] = {1,  19, 29, 37, 44, 50, 55,  60,
                                         65, 70, 76, 82, 89, 97, 107, 120};

  static constexpr int level(int code) { return kTable[code] - kOffset; }

  // The code whose level is nearest to a value in [-64, 64), in steps of 1/4: nearest[4 * (v +
  // 64)].
  static constexpr int kStepsPerUnit = 4;
  static constexpr std::array<uint8_t, 128 * kStepsPerUnit> nearest_codes() {
    std::array<uint8_t, 128 * kStepsPerUnit> nearest{};
    for (int i = 0; i < 128 * kStepsPerUnit; ++i) {
      int best = 0;
      for (int code = 1; code < 16; ++code) {
        // The middle of step i is (2 i + 1) / 2 steps: compare distances in eighths of a unit.
        const int middle = 2 * i + 1;
        const int distance = middle - 2 * kStepsPerUnit * kTable[code];
        const int least = middle - 2 * kStepsPerUnit * kTable[best];
        if (distance * distance < least * least) best = code;
      }
      nearest[static_cast<size_t>(i)] = static_cast<uint8_t>(best);
    }
    return nearest;
  }

  static void encode(const float* in, int64_t stride, float scale, uint8_t* codes) {
    static constexpr auto kNearest = nearest_codes();
    const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
    for (int i = 0; i < kColumnGroup; ++i) {
      const float step = (in[i * stride] * inverse + kOffset) * kStepsPerUnit;
      const float bounded = step > 0 ? step : 0.0f;
      const float most = 128.0f * kStepsPerUnit - 1.0f;
      codes[i] = kNearest[static_cast<size_t>(bounded < most ? bounded : most)];
    }
  }

  // The search for the scales is a kernel (kernels/fit_scales.inl): it is most of a conversion.
  static void pack_row_block(const float* values, int64_t stride, int64_t groups, void* weight,
                             uint16_t* scales, FitScales fit_scales) {
    auto* tiles = static_cast<uint8_t*>(weight);
    for (int64_t group = 0; group < groups; ++group) {
      float transposed[kColumnGroup * kRowBlock];
      for (int64_t row = 0; row < kRowBlock; ++row) {
        const float* in = values + row * stride + group * kColumnGroup;
        for (int i = 0; i < kColumnGroup; ++i) transposed[i * kRowBlock + row] = in[i];
      }
      float fitted[kRowBlock];
      fit_scales({transposed, kTable, fitted});
      for (int64_t row = 0; row < kRowBlock; ++row) {
        const uint16_t half = half_from_float(fitted[row]);
        scales[group * kRowBlock + row] = half;
        uint8_t codes[kColumnGroup];
        encode(transposed + row, kRowBlock, float_from_half(half), codes);
        uint8_t* out = tiles + group * kGroupBytes + row * 4;
        for (int i = 0; i < kColumnGroup; i += 8) {
          for (int c = 0; c < 4; ++c) {
            out[i / 8 * 64 + c] = static_cast<uint8_t>(codes[i + c] | codes[i + 4 + c] << 4);
          }
        }
      }
    }
  }

  static void unpack_row(const Matrix& matrix, int64_t row, float* out) {
    const int64_t block = row / kRowBlock;
    const auto* tiles = static_cast<const uint8_t*>(matrix.weight) +
                        block * matrix.groups() * kGroupBytes + row % kRowBlock * 4;
    const uint16_t* scales = matrix.scales + block * matrix.groups() * kRowBlock + row % kRowBlock;
    for (int64_t column = 0; column < matrix.columns; ++column) {
      const float scale = float_from_half(scales[column / kColumnGroup * kRowBlock]);
      const uint8_t pair = tiles[column / 8 * 64 + column % 4];
      const int code = column % 8 < 4 ? pair & 15 : pair >> 4;
      out[column] = static_cast<float>(level(code)) * scale;
    }
  }
};

}  // namespace pythia_rt
