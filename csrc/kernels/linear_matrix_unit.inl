// Matrix product with q8 or q4 weights on a unit that multiplies whole blocks of tiles
// (simd/amx.h): 16 rows of activations x 16 output columns x one group of 64 columns at a time.
//
// The integers are exact and the scaling is written as in linear_integer.inl: the same bits.
#pragma once

#include "kernels/linear_integer.inl"

namespace pythia_rt::PYTHIA_RT_ISA {

constexpr int kUnitRows = 16;

// With fewer rows the unit's tiles stand half empty and the vectors are as fast.
constexpr int64_t kMatrixUnitRows = 8;

// Activations of this many bytes stay in the second-level cache (2 MiB wherever there is AMX) while
// all weights pass by.
constexpr int64_t kActivationBytes = 1152 * 1024;

inline bool uses_unit(int64_t rows) { return rows >= kMatrixUnitRows; }

// The unit multiplies signed bytes: the panel holds weights with their offset taken off.
inline void unpack_signed(const uint8_t* in, int64_t bytes, Table table, bool nibbles,
                          uint8_t* out) {
  for (int64_t i = 0; i < bytes; i += 64) {
    const Tile tile = load_tile(in + i);
    if (nibbles) {
      store_tile(out + 2 * i, subtract_offset(low_nibbles(tile, table), 64));
      store_tile(out + 2 * i + 64, subtract_offset(high_nibbles(tile, table), 64));
    } else {
      store_tile(out + i, subtract_offset(tile, 128));
    }
  }
}

// One block of 16 outputs for 16 rows, of which the first n_rows count. The unit works on a group
// while the vectors scale the one before: the two integer buffers take turns.
inline void multiply_block(const LinearArguments& arguments, int64_t groups, int64_t block,
                           int64_t row, int64_t n_rows) {
  const QuantisedRows& in = arguments.quantised;
  const int8_t* codes = in.codes + row * in.stride;
  const float* row_scales = in.scales + row * groups;
  const uint16_t* weight_scales = arguments.matrix->scales + block * groups * kRowBlock;
  alignas(64) int32_t dots[2][kUnitRows * 16];
  Vec sum[kUnitRows];
  for (Vec& lanes : sum) lanes = zero();
  unit_multiply(codes, in.stride, arguments.panel, dots[0]);
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t next = group + 1;
    if (next < groups) {
      unit_multiply(codes + next * kColumnGroup, in.stride, arguments.panel + next * kUnpackedGroup,
                    dots[next % 2]);
    }
    const Vec weight_scale = load_f16(weight_scales + group * kRowBlock);
#pragma GCC unroll 16
    for (int r = 0; r < kUnitRows; ++r) {
      const Vec scale = weight_scale * broadcast(row_scales[r * groups + group]);
      sum[r] = fma(to_float(int_load(dots[group % 2] + 16 * r)), scale, sum[r]);
    }
  }
  // Through memory: the sums stay in registers only while every index into them is a constant.
  alignas(64) float sums[kUnitRows][16];
#pragma GCC unroll 16
  for (int r = 0; r < kUnitRows; ++r) store(sums[r], sum[r]);
  for (int r = 0; r < kUnitRows && r < n_rows; ++r) {
    finish(arguments, block, row + r, load(sums[r]));
  }
}

inline void linear_on_unit(const LinearArguments& arguments, bool nibbles) {
  const int64_t groups = count_groups(arguments);
  const int64_t block_bytes = groups * (nibbles ? NibbleGroup::kBytes : WideGroup::kBytes);
  const Table table = table_of(arguments);
  const int64_t fitting = kActivationBytes / (groups * kColumnGroup) / kUnitRows * kUnitRows;
  const int64_t chunk = fitting < kUnitRows ? kUnitRows : fitting;
  unit_begin();
  for (int64_t begin = arguments.row_begin; begin < arguments.row_end; begin += chunk) {
    const int64_t end = begin + chunk < arguments.row_end ? begin + chunk : arguments.row_end;
    for (int64_t block = arguments.block_begin; block < arguments.block_end; ++block) {
      unpack_signed(block_weights(arguments, block, block_bytes), block_bytes, table, nibbles,
                    arguments.panel);
      for (int64_t row = begin; row < end; row += kUnitRows) {
        multiply_block(arguments, groups, block, row, end - row);
      }
    }
  }
  unit_end();
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
