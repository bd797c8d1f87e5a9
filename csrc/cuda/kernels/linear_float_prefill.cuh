// The product of many tokens and a matrix of floats.
//
// A block of threads owns 64 rows of 64 tokens, each thread 4 rows of 8 tokens in registers; the
// weights and tokens of one group of columns at a time lie in shared memory.
#pragma once

#include "cuda/kernels/epilogue.cuh"
#include "cuda/kernels/weights_float.cuh"

namespace pythia_rt::cuda {

constexpr int kFloatPrefillRows = 64;
constexpr int kFloatPrefillTokens = 64;
constexpr int kFloatPrefillThreads = 128;
constexpr int kThreadTokens = 8;

struct FloatPrefillMemory {
  float weights[kColumnGroup][kFloatPrefillRows];
  float in[kColumnGroup][kFloatPrefillTokens + 4];  // transposed; padded against bank conflicts
};

// Brings one group of columns in.
template <typename Type>
__device__ __forceinline__ void bring_group(const LinearWork& work, int group, int first_row,
                                            int first_token, FloatPrefillMemory& memory) {
  constexpr int kFours = kColumnGroup * kFloatPrefillRows / 4;  // of weights, and of values
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll 8
  for (int i = thread; i < kFours; i += kFloatPrefillThreads) {
    // Four rows of a column. Memory is read in the order of a block's rows, then its columns.
    const int column = i / 4 % kColumnGroup;
    const int row = i / (4 * kColumnGroup) * kRowBlock + i % 4 * 4;
    const uint8_t* block = FloatWeights<Type>::block(work, first_row + row);
    *reinterpret_cast<float4*>(memory.weights[column] + row) =
        FloatWeights<Type>::load(block, group * kColumnGroup + column, row % kRowBlock);
  }
#pragma unroll 8
  for (int i = thread; i < kFours; i += kFloatPrefillThreads) {
    // Four columns of a token: neighbours take neighbouring tokens, whose banks differ.
    const int token = i / 4 % 8 + i / 128 * 8;
    const int column = (i % 4 + i / 32 % 4 * 4) * 4;
    // Tokens beyond the last one read the last one: nobody looks at their sums.
    const int64_t place = least(first_token + token, work.tokens - 1);
    const float4 in = *reinterpret_cast<const float4*>(work.in + place * work.in_stride +
                                                       group * kColumnGroup + column);
    memory.in[column][token] = in.x;
    memory.in[column + 1][token] = in.y;
    memory.in[column + 2][token] = in.z;
    memory.in[column + 3][token] = in.w;
  }
}

// The chains of one group: parts of rows `row` to row + 3 and tokens `token` to token + 7.
__device__ __forceinline__ void sum_columns(const FloatPrefillMemory& memory, int row, int token,
                                            float (&parts)[kThreadTokens][4]) {
#pragma unroll 4
  for (int column = 0; column < kColumnGroup; ++column) {
    const float4 weights = *reinterpret_cast<const float4*>(memory.weights[column] + row);
    const float4 low = *reinterpret_cast<const float4*>(memory.in[column] + token);
    const float4 high = *reinterpret_cast<const float4*>(memory.in[column] + token + 4);
    const float values[kThreadTokens] = {low.x,  low.y,  low.z,  low.w,
                                         high.x, high.y, high.z, high.w};
#pragma unroll
    for (int t = 0; t < kThreadTokens; ++t) {
      parts[t][0] = fmaf(weights.x, values[t], parts[t][0]);
      parts[t][1] = fmaf(weights.y, values[t], parts[t][1]);
      parts[t][2] = fmaf(weights.z, values[t], parts[t][2]);
      parts[t][3] = fmaf(weights.w, values[t], parts[t][3]);
    }
  }
}

template <typename Type>
__device__ __forceinline__ void prefill_float(const LinearWork& work, int first_row,
                                              int first_token, FloatPrefillMemory& memory) {
  const int thread = static_cast<int>(threadIdx.x);
  const int row = thread % (kFloatPrefillRows / 4) * 4;
  const int token = thread / (kFloatPrefillRows / 4) * kThreadTokens;
  float sums[kThreadTokens][4] = {};
#pragma unroll 1
  for (int group = 0; group < work.groups; ++group) {
    bring_group<Type>(work, group, first_row, first_token, memory);
    __syncthreads();
    float parts[kThreadTokens][4] = {};
    sum_columns(memory, row, token, parts);
#pragma unroll
    for (int t = 0; t < kThreadTokens; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[t][i] = sums[t][i] + parts[t][i];
    }
    __syncthreads();
  }
  // Through shared memory, so that the epilogue is compiled once: [tokens][rows].
  static_assert(kFloatPrefillTokens == kColumnGroup, "sums take the place of weights");
  auto& out = memory.weights;
#pragma unroll
  for (int t = 0; t < kThreadTokens; ++t) {
    *reinterpret_cast<float4*>(out[token + t] + row) =
        make_float4(sums[t][0], sums[t][1], sums[t][2], sums[t][3]);
  }
  __syncthreads();
  const int out_row = thread % kFloatPrefillRows;
  const int count = least(work.tokens - first_token, kFloatPrefillTokens);
  if (first_row + out_row >= work.rows) return;
#pragma unroll 1
  for (int t = thread / kFloatPrefillRows; t < count;
       t += kFloatPrefillThreads / kFloatPrefillRows) {
    finish(work, first_row + out_row, first_token + t, out[t][out_row]);
  }
}

}  // namespace pythia_rt::cuda
