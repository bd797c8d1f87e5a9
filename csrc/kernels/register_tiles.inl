// How a matrix product of floats is cut into register tiles: R blocks of 16 output columns x T
// rows.
//
// `work` offers run<R, T>(block, row), every size needed for the ends, and says as kSingleRowTile
// which R suits a single row. The cut has no influence on the result: each output is summed by
// itself, in one order.
#pragma once

#include "kernels/table.h"

namespace pythia_rt::PYTHIA_RT_ISA {

template <int kBlocks, int kRows, typename Work>
inline void run_last_rows(const Work& work, int64_t block, int64_t row, int64_t remaining) {
  if constexpr (kRows > 0) {
    if (remaining == kRows) {
      work.template run<kBlocks, kRows>(block, row);
    } else {
      run_last_rows<kBlocks, kRows - 1>(work, block, row, remaining);
    }
  }
}

template <int kBlocks, typename Work>
inline void run_rows(const Work& work, int64_t block, int64_t row, int64_t row_end) {
  for (; row + kTokenTile <= row_end; row += kTokenTile) {
    work.template run<kBlocks, kTokenTile>(block, row);
  }
  run_last_rows<kBlocks, kTokenTile - 1>(work, block, row, row_end - row);
}

template <int kBlocks, typename Work>
inline int64_t run_single_row(const Work& work, int64_t block, int64_t block_end, int64_t row) {
  for (; block + kBlocks <= block_end; block += kBlocks) work.template run<kBlocks, 1>(block, row);
  return block;
}

template <typename Work>
inline void run_tiles(const Work& work, const LinearArguments& arguments) {
  int64_t block = arguments.block_begin;
  const int64_t block_end = arguments.block_end;
  if (arguments.row_end - arguments.row_begin == 1) {
    block = run_single_row<Work::kSingleRowTile>(work, block, block_end, arguments.row_begin);
    run_single_row<1>(work, block, block_end, arguments.row_begin);
    return;
  }
  for (; block + kRowTile <= block_end; block += kRowTile) {
    run_rows<kRowTile>(work, block, arguments.row_begin, arguments.row_end);
  }
  if constexpr (kRowTile > 1) {
    for (; block < block_end; ++block) {
      run_rows<1>(work, block, arguments.row_begin, arguments.row_end);
    }
  }
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
