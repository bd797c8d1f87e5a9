// The formats of 4, 5 and 6 bits per weight: how a matrix is packed.
//
//   weight [row_blocks][groups][kGroupBytes], see group_layout.h
//   scales, units: see square_scales.h
//   value  = level(code) * scale
#pragma once

#include <algorithm>

#include "formats/group_layout.h"
#include "formats/matrix.h"
#include "formats/square_scales.h"

namespace pythia_rt {

// `Grid` offers kBits, kTable (null: levels are code - kOffset), kOffset, level(code),
// nearest(value in levels) and the factors of the search for scales.
template <typename Grid>
struct Narrow : Grid {
  using Layout = GroupLayout<Grid::kBits>;
  static constexpr const char* kType = "U8";
  static constexpr bool kQuantised = true;
  static constexpr bool kSquareScales = true;
  static constexpr int kCodes = 1 << Grid::kBits;
  static constexpr int64_t kGroupBytes = Layout::kGroupBytes;

  // Scales that suit the values, before they are rounded: [groups][16 rows]. The search is a
  // kernel (kernels/fit_scales.inl): it is most of a conversion.
  static void fit(const float* values, int64_t stride, int64_t groups, const float* importance,
                  FitScales fit_scales, float* scales) {
    float transposed[kColumnGroup * kRowBlock];
    for (int64_t group = 0; group < groups; ++group) {
      for (int64_t row = 0; row < kRowBlock; ++row) {
        const float* in = values + row * stride + group * kColumnGroup;
        for (int64_t i = 0; i < kColumnGroup; ++i) transposed[i * kRowBlock + row] = in[i];
      }
      fit_scales({transposed, importance == nullptr ? nullptr : importance + group * kColumnGroup,
                  Grid::kTable, Grid::kOffset, Grid::kFirstFactor, Grid::kLastFactor,
                  scales + group * kRowBlock});
    }
  }

  static float unit(const float* scales, int64_t groups) {
    return SquareScales::unit(scales, groups * kRowBlock);
  }

  // Rounds scales [groups][16] to what is stored.
  static void round_scales(float* scales, int64_t groups, float unit) {
    for (int64_t i = 0; i < groups * kRowBlock; ++i) {
      scales[i] = SquareScales::value(SquareScales::code(scales[i], unit), unit);
    }
  }

  static uint8_t encode(float value, float scale) {
    return Grid::nearest(scale != 0 ? value * (1.0f / scale) : 0.0f);
  }

  // Codes [16 rows][stride] and rounded scales [groups][16] into the stored parts of a row block.
  static void store_row_block(const uint8_t* codes, int64_t stride, int64_t groups,
                              const float* scales, float unit, const PackedBlock& out) {
    auto* bytes = static_cast<uint8_t*>(out.weight);
    auto* scale_codes = static_cast<int8_t*>(out.scales);
    std::fill_n(bytes, groups * kGroupBytes, uint8_t{0});
    *out.unit = unit;
    for (int64_t group = 0; group < groups; ++group) {
      for (int64_t row = 0; row < kRowBlock; ++row) {
        const int64_t index = group * kRowBlock + row;
        scale_codes[index] = SquareScales::code(scales[index], unit);
        for (int64_t i = 0; i < kColumnGroup; ++i) {
          Layout::store(bytes + group * kGroupBytes, row, i,
                        codes[row * stride + group * kColumnGroup + i]);
        }
      }
    }
  }

  static void unpack_row(const Matrix& matrix, int64_t row, float* out) {
    const int64_t block = row / kRowBlock;
    const auto* bytes =
        static_cast<const uint8_t*>(matrix.weight) + block * matrix.groups() * kGroupBytes;
    const auto* scales =
        static_cast<const int8_t*>(matrix.scales) + block * matrix.groups() * kRowBlock;
    for (int64_t column = 0; column < matrix.columns; ++column) {
      const int64_t group = column / kColumnGroup;
      const float scale =
          SquareScales::value(scales[group * kRowBlock + row % kRowBlock], matrix.units[block]);
      const int code =
          Layout::load(bytes + group * kGroupBytes, row % kRowBlock, column % kColumnGroup);
      out[column] = static_cast<float>(Grid::level(code)) * scale;
    }
  }
};

}  // namespace pythia_rt
