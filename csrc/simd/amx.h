// AVX-512 VNNI vectors plus Intel AMX, a unit that multiplies 16 x 64 by 64 x 16 signed bytes in
// one instruction. Sixteen of our weight tiles in a row (64 columns of 16 outputs) are exactly one
// of its B operands, so nothing is rearranged for it.
//
// Matrix unit, beside the interface of simd.h:
//   unit_begin() unit_end()      around any use, on the thread that uses it
//   unit_multiply(a, stride, n_rows, b, b_stride, n_blocks, out)
//        out[block][32][16] = products of n_rows <= 32 rows of 64 signed bytes at a with
//        n_blocks <= 2 blocks of 16 weight tiles (signed) at b and b + b_stride
#pragma once

#define PYTHIA_RT_MATRIX_UNIT
#include "simd/avx512.h"

namespace pythia_rt::PYTHIA_RT_ISA {

// Intel SDM volume 1, section 19.2: palette 1 has 8 tiles of up to 16 rows of 64 bytes.
struct alignas(64) TileConfiguration {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

inline void unit_begin() {
  TileConfiguration configuration;
  __builtin_memset(&configuration, 0, sizeof configuration);
  configuration.palette = 1;
  for (int tile = 0; tile < 8; ++tile) {
    configuration.row_bytes[tile] = 64;
    configuration.rows[tile] = 16;
  }
  _tile_loadconfig(&configuration);
}

inline void unit_end() { _tile_release(); }

// Tiles 0..3 are the products, 4 and 5 the two halves of the rows, 6 and 7 the two blocks. Rows
// beyond n_rows are read as well: the caller's buffer must hold whole multiples of 32 rows.
inline void unit_multiply(const int8_t* a, int64_t stride, int64_t n_rows, const uint8_t* b,
                          int64_t b_stride, int64_t n_blocks, int32_t* out) {
  constexpr int64_t kBlockOut = 32 * 16;
  constexpr int64_t kHalfOut = 16 * 16;
  const bool both_halves = n_rows > 16;
  _tile_loadd(4, a, stride);
  _tile_loadd(6, b, 64);
  _tile_zero(0);
  _tile_dpbssd(0, 4, 6);
  if (both_halves) {
    _tile_loadd(5, a + 16 * stride, stride);
    _tile_zero(1);
    _tile_dpbssd(1, 5, 6);
  }
  if (n_blocks > 1) {
    _tile_loadd(7, b + b_stride, 64);
    _tile_zero(2);
    _tile_dpbssd(2, 4, 7);
    if (both_halves) {
      _tile_zero(3);
      _tile_dpbssd(3, 5, 7);
    }
  }
  _tile_stored(0, out, 64);
  if (both_halves) _tile_stored(1, out + kHalfOut, 64);
  if (n_blocks > 1) {
    _tile_stored(2, out + kBlockOut, 64);
    if (both_halves) _tile_stored(3, out + kBlockOut + kHalfOut, 64);
  }
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
