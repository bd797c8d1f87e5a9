// AVX-512 VNNI vectors plus Intel AMX, a unit that multiplies 16 x 64 by 64 x 16 signed bytes in
// one instruction. Sixteen of our weight tiles in a row (64 columns of 16 outputs) are exactly one
// of its B operands, so nothing is rearranged for it.
//
// Matrix unit, beside the interface of simd.h:
//   unit_begin() unit_end()      around any use, on the thread that uses it
//   unit_multiply(a, stride, b, out)
//        out[16][16] = products of 16 rows of 64 signed bytes at a with 16 consecutive weight tiles
//        of signed bytes at b
//   unit_accumulate(a, b, rounds, out)
//        the same `rounds` times over in each of four sums, to out[4][16][16]: what the unit does
//        without waiting for memory, for tests/native/limits
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
  // In static storage: GCC believes that the instruction reads eight bytes of it only.
  static constexpr TileConfiguration kConfiguration = {
      1, 0, {}, {64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16}};
  _tile_loadconfig(&kConfiguration);
}

inline void unit_end() { _tile_release(); }

inline void unit_multiply(const int8_t* a, int64_t stride, const uint8_t* b, int32_t* out) {
  _tile_loadd(1, a, stride);
  _tile_loadd(2, b, 64);
  _tile_zero(0);
  _tile_dpbssd(0, 1, 2);
  _tile_stored(0, out, 64);
}

inline void unit_accumulate(const int8_t* a, const uint8_t* b, int64_t rounds, int32_t* out) {
  _tile_loadd(4, a, 64);
  _tile_loadd(5, b, 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  // A sum waits for the one before for longer than the unit is busy with it: four take turns.
  for (int64_t round = 0; round < rounds; ++round) {
    _tile_dpbssd(0, 4, 5);
    _tile_dpbssd(1, 4, 5);
    _tile_dpbssd(2, 4, 5);
    _tile_dpbssd(3, 4, 5);
  }
  _tile_stored(0, out, 64);
  _tile_stored(1, out + 256, 64);
  _tile_stored(2, out + 512, 64);
  _tile_stored(3, out + 768, 64);
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
