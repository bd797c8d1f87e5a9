// Matrix product with weights of 8 bits or fewer on a unit that multiplies whole blocks of tiles
// (simd/amx.h): 16 rows of activations x 16 output columns x one group of 64 columns at a time.
//
// The integers are exact and the scaling is written as in linear_integer.inl: the same bits.
#pragma once

#include "kernels/linear_integer.inl"

namespace pythia_rt::PYTHIA_RT_ISA {

constexpr int kUnitRows = 16;
constexpr int64_t kUnitBlocks = 2;  // in one panel: outputs of a row are written side by side

// With fewer rows the unit's tiles stand half empty and the vectors are faster.
constexpr int64_t kMatrixUnitRows = 13;

// Activations of this many bytes stay in the second-level cache (2 MiB wherever there is AMX) while
// all weights pass by.
constexpr int64_t kActivationBytes = 1152 * 1024;

inline bool uses_unit(int64_t rows) { return rows >= kMatrixUnitRows; }

// The unit multiplies signed bytes: the panel holds weights with their offset taken off.
template <typename Group>
inline void unpack_signed(const uint8_t* in, int64_t groups, Table table, uint8_t* out) {
  unpack_groups<Group>(in, groups, table, out, [](uint8_t* place, Tile first, Tile second) {
    store_tile(place, subtract_offset(first, Group::kOffset));
    store_tile(place + 64, subtract_offset(second, Group::kOffset));
  });
}

// Where weights lie that are needed soon: with every group one prefetch, `step` bytes after the
// last.
struct WeightsAhead {
  const uint8_t* place;
  int64_t step;
};

// One block of 16 outputs, whose panel is given, for 16 rows, of which the first n_rows count. The
// unit works two groups ahead of the vectors that scale its integers: three buffers take turns. The
// sums are all the registers that there are, so more blocks at once would only spill them.
template <typename Scales>
inline void multiply_block(const LinearArguments& arguments, const uint8_t* panel, int64_t groups,
                           int64_t block, int64_t row, int64_t n_rows, const WeightsAhead& ahead) {
  constexpr int64_t kBuffers = 3;
  const QuantisedRows& in = arguments.quantised;
  const int8_t* codes = in.codes + row * in.stride;
  const float* row_scales = in.scales + row * groups;
  const uint8_t* weight_scales = static_cast<const uint8_t*>(arguments.matrix->scales) +
                                 block * groups * kRowBlock * Scales::kBytes;
  alignas(64) int32_t dots[kBuffers][kUnitRows * 16];
  const auto multiply_group = [&](int64_t group) {
    if (group < groups) {
      unit_multiply(codes + group * kColumnGroup, in.stride, panel + group * kUnpackedGroup,
                    dots[group % kBuffers]);
    }
  };
  // Registers hold the sums only where every index into them is a constant: all loops are unrolled.
  Vec sum[kUnitRows];
#pragma GCC unroll 16
  for (int r = 0; r < kUnitRows; ++r) sum[r] = zero();
  for (int64_t group = 0; group < kBuffers - 1; ++group) multiply_group(group);
  for (int64_t group = 0; group < groups; ++group) {
    multiply_group(group + kBuffers - 1);
    __builtin_prefetch(ahead.place + group * ahead.step, 0, 2);  // to the second-level cache
    const Vec weight_scale = Scales::load(weight_scales + group * kRowBlock * Scales::kBytes);
#pragma GCC unroll 16
    for (int r = 0; r < kUnitRows; ++r) {
      const Vec scale = weight_scale * broadcast(row_scales[r * groups + group]);
      sum[r] = fma(to_float(int_load(dots[group % kBuffers] + 16 * r)), scale, sum[r]);
    }
  }
  // Through memory, where an index may be any.
  alignas(64) float sums[kUnitRows][16];
#pragma GCC unroll 16
  for (int r = 0; r < kUnitRows; ++r) store(sums[r], sum[r]);
  for (int r = 0; r < kUnitRows && r < n_rows; ++r) {
    finish(arguments, block, row + r, Scales::finish(*arguments.matrix, block, load(sums[r])));
  }
}

// Unpacks n_blocks blocks and multiplies them with rows begin .. end.
template <typename Group>
inline void multiply_panel(const LinearArguments& arguments, int64_t groups, int64_t block,
                           int64_t n_blocks, int64_t begin, int64_t end) {
  const uint8_t* weights = block_weights(arguments, block, groups * Group::kBytes);
  unpack_signed<Group>(weights, n_blocks * groups, table_of(arguments), arguments.panel);
  const int64_t left = arguments.block_end - block - n_blocks;
  const int64_t next_bytes = (left < kUnitBlocks ? left : kUnitBlocks) * groups * Group::kBytes;
  const int64_t prefetches = (end - begin + kUnitRows - 1) / kUnitRows * n_blocks * groups;
  WeightsAhead ahead{weights + n_blocks * groups * Group::kBytes, next_bytes / prefetches};
  for (int64_t row = begin; row < end; row += kUnitRows) {
    for (int64_t i = 0; i < n_blocks; ++i) {
      multiply_block<typename Group::Scales>(arguments,
                                             arguments.panel + i * groups * kUnpackedGroup, groups,
                                             block + i, row, end - row, ahead);
      ahead.place += groups * ahead.step;
    }
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
    for (int64_t block = arguments.block_begin; block < arguments.block_end; block += kUnitBlocks) {
      const int64_t remaining = arguments.block_end - block;
      multiply_panel<Group>(arguments, groups, block,
                            remaining < kUnitBlocks ? remaining : kUnitBlocks, begin, end);
    }
  }
  unit_end();
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
