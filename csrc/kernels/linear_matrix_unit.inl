// Matrix product with q8 or q4 weights on a unit that multiplies whole blocks of tiles
// (simd/amx.h): 32 rows of activations x 32 output columns x one group of 64 columns at a time.
//
// The integers are exact and the scaling is written as in linear_integer.inl: the same bits.
#pragma once

#include "kernels/linear_integer.inl"

namespace pythia_rt::PYTHIA_RT_ISA {

constexpr int kUnitRows = 32;
constexpr int kUnitBlocks = 2;

// With fewer rows the unit's 16-row tiles stand half empty and the vectors are as fast.
constexpr int64_t kMatrixUnitRows = 8;

// Activations of this many bytes stay in the second-level cache while all weights pass by.
constexpr int64_t kActivationBytes = 640 * 1024;

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

// One block of outputs: rows row .. row + n_rows, blocks block .. block + n_blocks.
inline void multiply_block(const LinearArguments& arguments, int64_t groups, int64_t row,
                           int64_t n_rows, int64_t block, int64_t n_blocks) {
  const QuantisedRows& in = arguments.quantised;
  const uint16_t* scales = arguments.matrix->scales + block * groups * kRowBlock;
  alignas(64) int32_t dots[kUnitBlocks][kUnitRows][16];
  alignas(64) float sums[kUnitRows][kUnitBlocks][16];
  for (int64_t r = 0; r < n_rows; ++r) {
    for (int64_t b = 0; b < n_blocks; ++b) store(sums[r][b], zero());
  }
  for (int64_t group = 0; group < groups; ++group) {
    const int8_t* codes = in.codes + row * arguments.in_stride + group * kColumnGroup;
    const uint8_t* weights = arguments.panel + group * kUnpackedGroup;
    unit_multiply(codes, arguments.in_stride, n_rows, weights, groups * kUnpackedGroup, n_blocks,
                  &dots[0][0][0]);
    for (int64_t b = 0; b < n_blocks; ++b) {
      const Vec weight_scale = load_f16(scales + (b * groups + group) * kRowBlock);
      for (int64_t r = 0; r < n_rows; ++r) {
        const Vec scale = weight_scale * broadcast(in.scales[(row + r) * groups + group]);
        store(sums[r][b], fma(to_float(int_load(dots[b][r])), scale, load(sums[r][b])));
      }
    }
  }
  for (int64_t b = 0; b < n_blocks; ++b) {
    for (int64_t r = 0; r < n_rows; ++r) finish(arguments, block + b, row + r, load(sums[r][b]));
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
    for (int64_t block = arguments.block_begin; block < arguments.block_end; block += kUnitBlocks) {
      const int64_t left = arguments.block_end - block;
      const int64_t n_blocks = left < kUnitBlocks ? left : kUnitBlocks;
      unpack_signed(block_weights(arguments, block, block_bytes), n_blocks * block_bytes, table,
                    nibbles, arguments.panel);
      for (int64_t row = begin; row < end; row += kUnitRows) {
        const int64_t n_rows = end - row < kUnitRows ? end - row : kUnitRows;
        multiply_block(arguments, groups, row, n_rows, block, n_blocks);
      }
    }
  }
  unit_end();
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
