// How codes of 4, 5, 6 and 8 bits lie in a group of 64 columns of a block of 16 rows. Packing, the
// kernels of every ISA and those of CUDA take it from here.
//
//   8 bits: 16 tiles of 64 bytes: byte 4 * row + c of tile t is column 4 t + c.
//   Below:  first the low 4 bits of all codes, 8 pieces of 64 bytes: byte 4 * row + c of piece p
//           holds column 8 p + c in its low nibble and column 8 p + 4 + c in its high one. Then the
//           high bits, one piece per bit: every half byte (the high half first) serves the next
//           tiles of 4 columns, kHighBits each, from its lowest bit up.
//
// So a tile of codes is made of a nibble, and a shift and a mask of the high bits, on every ISA.
#pragma once

#include "formats/matrix.h"

namespace pythia_rt {

constexpr int kTileColumns = 4;
constexpr int kTileBytes = kRowBlock * kTileColumns;  // of a tile of 8 bits, and of every piece

// Where the byte of a code of 8 bits lies in its group.
constexpr int64_t tile_byte(int64_t row, int64_t column) {
  return column / kTileColumns * kTileBytes + row * kTileColumns + column % kTileColumns;
}

template <int kBitsPerCode>
struct GroupLayout {
  static_assert(kBitsPerCode == 8 || (kBitsPerCode >= 4 && kBitsPerCode <= 6),
                "other bits need a layout here, in PackedGroup and in CUDA's IntegerGroup");
  static constexpr int kBits = kBitsPerCode;
  static constexpr int kHighBits = kBits == 8 ? 0 : kBits - 4;
  static constexpr int kNibbleBytes = kRowBlock * kColumnGroup / 2;
  static constexpr int kGroupBytes = kRowBlock * kColumnGroup * kBits / 8;
  // Tiles whose high bits one half byte has; without high bits, all of them.
  static constexpr int kTilesPerHalf =
      kHighBits == 0 ? kColumnGroup / kTileColumns : 4 / (kHighBits == 0 ? 1 : kHighBits);
  // A level is a code less this, or for 4 bits an entry of the grid's table less this.
  static constexpr int kOffset = kBits == 4 ? 64 : 1 << (kBits - 1);
  // A scale is a half for 8 bits, else a code of square_scales.h.
  static constexpr int kScaleBytes = kBits == 8 ? 2 : 1;

  // Where the high bits of one code lie: the byte's offset in its group, and the lowest bit.
  struct Place {
    int64_t byte;
    int shift;
  };
  static constexpr Place high_bits(int64_t row, int64_t column) {
    static_assert(kHighBits > 0);
    const int64_t tile = column / kTileColumns;
    const int64_t half = tile / kTilesPerHalf;
    const auto within = static_cast<int>(tile % kTilesPerHalf) * kHighBits;
    return {kNibbleBytes + tile_byte(row, column % kTileColumns) + half / 2 * kTileBytes,
            (half % 2 == 0 ? 4 : 0) + within};
  }
  static constexpr int64_t nibble_byte(int64_t row, int64_t column) {
    return column / (2 * kTileColumns) * kTileBytes + tile_byte(row, column % kTileColumns);
  }
  static constexpr int nibble_shift(int64_t column) {
    return column % (2 * kTileColumns) < kTileColumns ? 0 : 4;
  }

  // Sets one code of a group whose bytes were zero.
  static void store(uint8_t* group, int64_t row, int64_t column, int code) {
    if constexpr (kBits == 8) {
      group[tile_byte(row, column)] = static_cast<uint8_t>(code);
    } else {
      uint8_t& low = group[nibble_byte(row, column)];
      low = static_cast<uint8_t>(low | (code & 15) << nibble_shift(column));
    }
    if constexpr (kHighBits > 0) {
      const Place place = high_bits(row, column);
      group[place.byte] = static_cast<uint8_t>(group[place.byte] | code >> 4 << place.shift);
    }
  }

  static constexpr int load(const uint8_t* group, int64_t row, int64_t column) {
    if constexpr (kBits == 8) return group[tile_byte(row, column)];
    int code = group[nibble_byte(row, column)] >> nibble_shift(column) & 15;
    if constexpr (kHighBits > 0) {
      const Place place = high_bits(row, column);
      code |= (group[place.byte] >> place.shift & ((1 << kHighBits) - 1)) << 4;
    }
    return code;
  }
};

}  // namespace pythia_rt
