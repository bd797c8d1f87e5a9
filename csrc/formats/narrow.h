// The formats of 4, 5 and 6 bits per weight: how codes lie in tiles, and how a matrix is packed.
//
//   weight [row_blocks][groups][kGroupBytes]: of each group of 64 columns first the low 4 bits of
//          its codes, 8 pieces of 64 bytes: byte 4 * row + c of piece p holds column 8 p + c in its
//          low nibble and column 8 p + 4 + c in its high one. Then the high bits, one piece of 64
//          bytes per bit: every half byte (the high half first) serves the next tiles of 4 columns,
//          kHighBits each, from its lowest bit up.
//   scales, units: see square_scales.h
//   value  = level(code) * scale
//
// So a tile of codes is made of a nibble, and a shift and a mask of the high bits, on every ISA.
#pragma once

#include <cstring>

#include "formats/matrix.h"
#include "formats/square_scales.h"

namespace pythia_rt {

template <int kBitsPerCode>
struct NarrowLayout {
  static constexpr int kBits = kBitsPerCode;
  static constexpr int kHighBits = kBits - 4;
  static constexpr int64_t kNibbleBytes = kRowBlock * kColumnGroup / 2;
  static constexpr int64_t kGroupBytes = kRowBlock * kColumnGroup * kBits / 8;

  // Where the high bits of one code lie: the byte's offset in its group, and the lowest bit.
  struct Place {
    int64_t byte;
    int shift;
  };
  static constexpr Place high_bits(int64_t row, int64_t column) {
    static_assert(kHighBits > 0);
    constexpr int kTilesPerHalf = 4 / kHighBits;
    const int64_t tile = column / 4;
    const int64_t half = tile / kTilesPerHalf;
    const auto within = static_cast<int>(tile % kTilesPerHalf) * kHighBits;
    return {kNibbleBytes + half / 2 * 64 + row * 4 + column % 4, (half % 2 == 0 ? 4 : 0) + within};
  }
  static constexpr int64_t nibble_byte(int64_t row, int64_t column) {
    return column / 8 * 64 + row * 4 + column % 4;
  }
  static constexpr int nibble_shift(int64_t column) { return column % 8 < 4 ? 0 : 4; }

  // Sets one code of a group whose bytes were zero.
  static void store(uint8_t* group, int64_t row, int64_t column, int code) {
    uint8_t& low = group[nibble_byte(row, column)];
    low = static_cast<uint8_t>(low | (code & 15) << nibble_shift(column));
    if constexpr (kHighBits > 0) {
      const Place place = high_bits(row, column);
      group[place.byte] = static_cast<uint8_t>(group[place.byte] | code >> 4 << place.shift);
    }
  }

  static constexpr int load(const uint8_t* group, int64_t row, int64_t column) {
    int code = group[nibble_byte(row, column)] >> nibble_shift(column) & 15;
    if constexpr (kHighBits > 0) {
      const Place place = high_bits(row, column);
      code |= (group[place.byte] >> place.shift & ((1 << kHighBits) - 1)) << 4;
    }
    return code;
  }
};

// `Grid` offers kBits, kTable (null: levels are code - kOffset), kOffset, level(code),
// nearest(value in levels) and the factors of the search for scales.
template <typename Grid>
struct Narrow : Grid {
  using Layout = NarrowLayout<Grid::kBits>;
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
    std::memset(bytes, 0, static_cast<size_t>(groups * kGroupBytes));
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
