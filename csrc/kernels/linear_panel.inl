// Matrix product of many rows for an ISA with its own way to multiply panels (simd/neon.h, i8mm.h).
//
// For all formats alike the panel holds signed bytes, in the order in which the ISA wants them.
// What registers must hold is the integers of a group; the float sums wait in memory. Integers are
// exact and floats are added as in linear_integer.inl: the same bits.
#pragma once

#include "kernels/linear_integer.inl"

namespace pythia_rt::PYTHIA_RT_ISA {

using Panel = PYTHIA_RT_PANEL;

// From this many rows on, unpacking a panel of weights first costs less than unpacking them anew in
// every register tile.
constexpr int64_t kPanelRows = 12;

// The sums of kRows rows over all groups of one block. Not inline: the integers need the registers.
// Reads the codes of all kRows rows, whether they count or not.
template <typename Scales, int kRows>
[[gnu::noinline]] void add_panel(const QuantisedRows& in, const uint8_t* panel,
                                 const uint8_t* weight_scales, int64_t groups, int64_t row,
                                 float* sums) {
  const int8_t* codes = in.codes + row * in.stride;
  const float* scales = in.scales + row * groups;
  for (int r = 0; r < kRows; ++r) store(sums + kRowBlock * r, zero());
  for (int64_t group = 0; group < groups; ++group) {
    Panel::Dots<kRows> dots;
    Panel::clear(dots);
    for (int64_t column = 0; column < kColumnGroup; column += Panel::kColumns) {
      Panel::add(dots, panel, codes, in.stride);
      codes += Panel::kColumns;
      panel += Panel::kColumns * kRowBlock;
    }
    const Vec weight_scale = Scales::load(weight_scales + group * kRowBlock * Scales::kBytes);
    Panel::scale(dots, weight_scale, scales + group, groups, sums);
  }
}

// The next rows of one block, at most kRows and at most n_rows; returns how many.
template <typename Scales, int kRows = Panel::kRows>
inline int64_t multiply_rows(const LinearArguments& arguments, int64_t groups, int64_t block,
                             int64_t row, int64_t n_rows) {
  if constexpr (kRows > Panel::kRowStep) {
    constexpr int kFewer = kRows - Panel::kRowStep;
    if (n_rows <= kFewer) {
      return multiply_rows<Scales, kFewer>(arguments, groups, block, row, n_rows);
    }
  }
  const uint8_t* weight_scales = static_cast<const uint8_t*>(arguments.matrix->scales) +
                                 block * groups * kRowBlock * Scales::kBytes;
  alignas(64) float sums[kRows * kRowBlock];
  add_panel<Scales, kRows>(arguments.quantised, arguments.panel, weight_scales, groups, row, sums);
  const int64_t count = n_rows < kRows ? n_rows : kRows;
  for (int r = 0; r < count; ++r) {
    const Vec sum = Panel::row(sums, r);
    finish(arguments, block, row + r, Scales::finish(*arguments.matrix, block, sum));
  }
  return count;
}

template <typename Group>
inline void linear_panel(const LinearArguments& arguments) {
  const int64_t groups = count_groups(arguments);
  const Table table = table_of(arguments);
  for (int64_t block = arguments.block_begin; block < arguments.block_end; ++block) {
    unpack_groups<Group>(block_weights(arguments, block, groups * Group::kBytes), groups, table,
                         arguments.panel, [](uint8_t* out, Tile first, Tile second) {
                           Panel::store(out, subtract_offset(first, Group::kOffset),
                                        subtract_offset(second, Group::kOffset));
                         });
    for (int64_t row = arguments.row_begin; row < arguments.row_end;) {
      row += multiply_rows<typename Group::Scales>(arguments, groups, block, row,
                                                   arguments.row_end - row);
    }
  }
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
