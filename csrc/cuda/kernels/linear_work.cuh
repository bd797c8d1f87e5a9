// What the kernels of a matrix product are told, and how a grid of them is divided.
//
// Here a row is a row of the matrix, and so a column of the output; a row of activations is a
// token. Every block of threads owns some rows of some tokens: blockIdx.x counts the tokens, so
// that blocks which run together share their weights, and blockIdx.y the rows.
#pragma once

#include "cuda/kernels/launch.h"
#include "cuda/kernels/math.cuh"
#include "cuda/port.cuh"

namespace pythia_rt::cuda {

// Up to so many tokens, blocks of few outputs: large ones would be too few to fill the device.
constexpr int kFewTokens = 16;

struct LinearWork {
  const uint8_t* weight;  // the matrix's parts, see formats/matrix.h
  const uint8_t* scales;
  const float* units;
  const float* bias;
  const int8_t* codes;  // the tokens for a quantised format, see QuantisedRows
  const float* code_scales;
  int64_t code_stride;
  const float* in;  // the tokens for a float format
  int64_t in_stride;
  float* out;
  int64_t out_stride;
  int rows;
  int groups;
  int tokens;
  Format format;
  Epilogue epilogue;
};

// One or two products in one grid: side by side, or both on the same outputs, one after the other.
struct LinearWorks {
  LinearWork work[2];
  int count;
  bool same_outputs;

  int64_t blocks_of(int i, int rows_per_block) const {
    return divide_up(work[i].rows, rows_per_block);
  }
  dim3 grid(int rows_per_block, int tokens_per_block) const {
    const bool side_by_side = count == 2 && !same_outputs;
    const int64_t blocks =
        blocks_of(0, rows_per_block) + (side_by_side ? blocks_of(1, rows_per_block) : 0);
    return dim3(static_cast<unsigned>(divide_up(work[0].tokens, tokens_per_block)),
                static_cast<unsigned>(blocks));
  }
};

// Which of the products a block of threads works on, and on which of their blocks of rows. Kernels
// ask for each by a constant index: then what they are told stays in constant memory.
struct BlockShare {
  bool first;
  bool second;
  int block;
};
__device__ __forceinline__ BlockShare block_share(const LinearWorks& works, int rows_per_block) {
  const int block = static_cast<int>(blockIdx.y);
  if (works.count == 1 || works.same_outputs) return {true, works.count == 2, block};
  const int first_blocks = (works.work[0].rows + rows_per_block - 1) / rows_per_block;
  if (block < first_blocks) return {true, false, block};
  return {false, true, block - first_blocks};
}

// All products are of quantised formats, or all of float formats.
void linear_integer(Stream stream, const LinearWorks& works);
void linear_float(Stream stream, const LinearWorks& works);

}  // namespace pythia_rt::cuda
