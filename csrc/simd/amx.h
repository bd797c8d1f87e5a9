// AVX-512 VNNI vectors plus Intel AMX, a unit that multiplies 16 x 64 by 64 x 16 signed bytes in
// one instruction. Sixteen of our weight tiles in a row (64 columns of 16 outputs) are exactly one
// of its B operands, so nothing is rearranged for it.
//
// Matrix unit, beside the interface of simd.h:
//   unit_begin() unit_end()      around any use, on the thread that uses it
//   unit_multiply<n>(a, stride, b, b_stride, out)
//        out[block][16][16] = products of 16 rows of 64 signed bytes at a with, for each of n <= 2
//        blocks, 16 consecutive weight tiles of signed bytes at b + block * b_stride
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

template <int kBlocks>
inline void unit_multiply(const int8_t* a, int64_t stride, const uint8_t* b, int64_t b_stride,
                          int32_t* out) {
  _tile_loadd(2, a, stride);
  _tile_loadd(3, b, 64);
  _tile_zero(0);
  _tile_dpbssd(0, 2, 3);
  if constexpr (kBlocks > 1) {
    _tile_loadd(4, b + b_stride, 64);
    _tile_zero(1);
    _tile_dpbssd(1, 2, 4);
  }
  _tile_stored(0, out, 64);
  if constexpr (kBlocks > 1) _tile_stored(1, out + 16 * 16, 64);
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
