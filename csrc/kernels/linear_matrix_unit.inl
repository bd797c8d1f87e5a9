// Matrix product with weights of 8 bits or fewer on a unit that multiplies whole blocks of tiles
// (simd/amx.h): 16 rows of activations x 16 output columns x one group of 64 columns at a time.
//
// The integers are exact and the scaling is written as in linear_integer.inl: the same bits.
#pragma once

#include "kernels/linear_integer.inl"

namespace pythia_rt::PYTHIA_RT_ISA {

constexpr int kUnitRows = 16;
constexpr int kUnitBlocks = 2;

// With fewer rows the unit's tiles stand half empty and the vectors are faster.
constexpr int64_t kMatrixUnitRows = 13;

// Activations of this many bytes stay in the second-level cache (2 MiB wherever there is AMX) while
// all weights pass by.
constexpr int64_t kActivationBytes = 1152 * 1024;

inline bool uses_unit(int64_t rows) { return rows >= kMatrixUnitRows; }

// The unit multiplies signed bytes: the panel holds weights with their offset taken off.
template <typename Group>
inline void unpack_signed(const uint8_t* in, int64_t groups, Table table, uint8_t* out) {
  if constexpr (Group::kUnpacked) {
    for (int64_t i = 0; i < groups * Group::kBytes; i += 64) {
      store_tile(out + i, subtract_offset(load_tile(in + i), 128));
    }
  } else {
    unpack_groups<Group>(in, groups, table, out,
                         [](Tile tile) { return subtract_offset(tile, Group::kOffset); });
  }
}

// kBlocks blocks of 16 outputs for 16 rows, of which the first n_rows count. The unit works on a
// group while the vectors scale the one before: the two integer buffers take turns.
template <typename Scales, int kBlocks>
inline void multiply_blocks(const LinearArguments& arguments, int64_t groups, int64_t block,
                            int64_t row, int64_t n_rows) {
  const QuantisedRows& in = arguments.quantised;
  const int8_t* codes = in.codes + row * in.stride;
  const float* row_scales = in.scales + row * groups;
  const uint8_t* weight_scales = static_cast<const uint8_t*>(arguments.matrix->scales) +
                                 block * groups * kRowBlock * Scales::kBytes;
  const int64_t panel_bytes = groups * kUnpackedGroup;  // of one block
  alignas(64) int32_t dots[2][kBlocks][kUnitRows * 16];
  Vec sum[kBlocks][kUnitRows];
  for (auto& rows : sum) {
    for (Vec& lanes : rows) lanes = zero();
  }
  unit_multiply<kBlocks>(codes, in.stride, arguments.panel, panel_bytes, dots[0][0]);
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t next = group + 1;
    if (next < groups) {
      unit_multiply<kBlocks>(codes + next * kColumnGroup, in.stride,
                             arguments.panel + next * kUnpackedGroup, panel_bytes,
                             dots[next % 2][0]);
    }
    for (int b = 0; b < kBlocks; ++b) {
      const Vec weight_scale =
          Scales::load(weight_scales + (b * groups + group) * kRowBlock * Scales::kBytes);
#pragma GCC unroll 16
      for (int r = 0; r < kUnitRows; ++r) {
        const Vec scale = weight_scale * broadcast(row_scales[r * groups + group]);
        sum[b][r] = fma(to_float(int_load(dots[group % 2][b] + 16 * r)), scale, sum[b][r]);
      }
    }
  }
  // Through memory: sums stay in registers only while every index into them is a constant. A row's
  // blocks are finished together: they lie side by side, and the row is far from the next.
  alignas(64) float sums[kBlocks][kUnitRows][16];
  for (int b = 0; b < kBlocks; ++b) {
#pragma GCC unroll 16
    for (int r = 0; r < kUnitRows; ++r) store(sums[b][r], sum[b][r]);
  }
  for (int r = 0; r < kUnitRows && r < n_rows; ++r) {
    for (int b = 0; b < kBlocks; ++b) {
      const Vec y = Scales::finish(*arguments.matrix, block + b, load(sums[b][r]));
      finish(arguments, block + b, row + r, y);
    }
  }
}

// Unpacks kBlocks blocks and multiplies them with rows begin .. end.
template <typename Group, int kBlocks>
inline void multiply_panel(const LinearArguments& arguments, int64_t groups, int64_t block,
                           int64_t begin, int64_t end) {
  unpack_signed<Group>(block_weights(arguments, block, groups * Group::kBytes), kBlocks * groups,
                       table_of(arguments), arguments.panel);
  for (int64_t row = begin; row < end; row += kUnitRows) {
    multiply_blocks<typename Group::Scales, kBlocks>(arguments, groups, block, row, end - row);
  }
}

template <typename Group>
inline void linear_on_unit(const LinearArguments& arguments) {
  const int64_t groups = count_groups(arguments);
  const int64_t fitting = kActivationBytes / (groups * kColumnGroup) / kUnitRows * kUnitRows;
  const int64_t chunk = fitting < kUnitRows ? kUnitRows : fitting;
  unit_begin();
  for (int64_t begin = arguments.row_begin; begin < arguments.row_end; begin += chunk) {
    const int64_t end = begin + chunk < arguments.row_end ? begin + chunk : arguments.row_end;
    int64_t block = arguments.block_begin;
    for (; block + kUnitBlocks <= arguments.block_end; block += kUnitBlocks) {
      multiply_panel<Group, kUnitBlocks>(arguments, groups, block, begin, end);
    }
    for (; block < arguments.block_end; ++block) {
      multiply_panel<Group, 1>(arguments, groups, block, begin, end);
    }
  }
  unit_end();
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
