// The product of few tokens and a matrix of floats.
//
// A block of threads owns 32 rows of some tokens. Lane 4 g + q of a warp, with g = 4 b + j, sums a
// group of columns of its own, the warp's q-th, for rows 4 j to 4 j + 3 of block b: each sum is one
// chain. The groups' sums meet in shared memory, where the thread that owns an output adds them in
// order.
#pragma once

#include "cuda/kernels/epilogue.cuh"
#include "cuda/kernels/weights_float.cuh"

namespace pythia_rt::cuda {

constexpr int kFloatDecodeRows = 32;
constexpr int kFloatDecodeTokens = 8;
constexpr int kFloatDecodeWarps = 4;
constexpr int kFloatDecodeThreads = kFloatDecodeWarps * 32;
constexpr int kFloatDecodeGroups = kFloatDecodeWarps * 4;  // of a round

// Sums of groups, padded: the four groups that a warp writes at once meet different banks.
using FloatParts = float[kFloatDecodeGroups][kFloatDecodeTokens * kFloatDecodeRows + 8];

// One group of columns, at `first_column`: four rows of up to kTokens tokens.
template <typename Type, int kTokens>
__device__ __forceinline__ void sum_group(const LinearWork& work, const uint8_t* block,
                                          int first_column, int row, int first_token, int tokens,
                                          float (&parts)[kTokens][4]) {
#pragma unroll 2
  for (int column = first_column; column < first_column + kColumnGroup; column += 4) {
    float4 weights[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) weights[i] = FloatWeights<Type>::load(block, column + i, row);
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      // Tokens beyond the last one read the last one: nobody looks at their sums.
      const int64_t token = first_token + least(t, tokens - 1);
      const float4 in = *reinterpret_cast<const float4*>(work.in + token * work.in_stride + column);
      const float values[4] = {in.x, in.y, in.z, in.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        parts[t][0] = fmaf(weights[i].x, values[i], parts[t][0]);
        parts[t][1] = fmaf(weights[i].y, values[i], parts[t][1]);
        parts[t][2] = fmaf(weights[i].z, values[i], parts[t][2]);
        parts[t][3] = fmaf(weights[i].w, values[i], parts[t][3]);
      }
    }
  }
}

template <typename Type, int kTokens>
__device__ __forceinline__ void decode_float(const LinearWork& work, int first_row, int first_token,
                                             FloatParts& memory) {
  constexpr int kOutputs = kTokens * kFloatDecodeRows;
  constexpr int kOwned = (kOutputs + kFloatDecodeThreads - 1) / kFloatDecodeThreads;  // by a thread
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int group = thread / 32 * 4 + lane % 4;
  const int row = lane / 4 * 4;  // of 32
  const uint8_t* block = FloatWeights<Type>::block(work, first_row + row);
  const int tokens = least(work.tokens - first_token, kTokens);
  float sums[kOwned] = {};
#pragma unroll 1
  for (int begin = 0; begin < work.groups; begin += kFloatDecodeGroups) {
    if (begin + group < work.groups) {
      float parts[kTokens][4] = {};
      sum_group<Type, kTokens>(work, block, (begin + group) * kColumnGroup, row % kRowBlock,
                               first_token, tokens, parts);
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        *reinterpret_cast<float4*>(memory[group] + t * kFloatDecodeRows + row) =
            make_float4(parts[t][0], parts[t][1], parts[t][2], parts[t][3]);
      }
    }
    __syncthreads();
    const int count = least(work.groups - begin, kFloatDecodeGroups);
#pragma unroll
    for (int i = 0; i < kOwned; ++i) {
      const int output = thread + i * kFloatDecodeThreads;
      if (output < kOutputs) {
        for (int g = 0; g < count; ++g) sums[i] = sums[i] + memory[g][output];
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kOwned; ++i) {
    const int output = thread + i * kFloatDecodeThreads;
    const int out_row = first_row + output % kFloatDecodeRows;
    const int token = output / kFloatDecodeRows;
    if (token < tokens && out_row < work.rows) finish(work, out_row, first_token + token, sums[i]);
  }
}

}  // namespace pythia_rt::cuda
