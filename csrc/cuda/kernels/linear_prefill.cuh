// The product of many tokens and a matrix of integers: the tensor cores are to be kept busy.
//
// A block of threads owns 128 rows of 64 tokens, each warp 32 of the rows, with their sums in
// registers. The tokens' codes come through shared memory, some groups of columns ahead; the
// weights, which only one warp needs, straight from memory, one group ahead.
#pragma once

#include "cuda/kernels/epilogue.cuh"
#include "cuda/kernels/weights_integer.cuh"

namespace pythia_rt::cuda {

constexpr int kPrefillWarps = 4;
constexpr int kPrefillThreads = kPrefillWarps * 32;
constexpr int kPrefillRows = kPrefillWarps * kWarpRows;
constexpr int kPrefillTokens = 64;
constexpr int kPrefillStages = 4;

// Outputs on their way out, of one warp; rows are padded against bank conflicts.
constexpr int kSumTokens = 32;
using PrefillSums = float[kSumTokens][kWarpRows + 4];

struct PrefillMemory {
  union {
    uint4 codes[kPrefillStages][kPrefillTokens][kColumnGroup / 16];
    PrefillSums sums[kPrefillWarps];
  };
  float token_scales[2][kPrefillTokens];
};

// Brings the tokens of a block in: two threads a token.
struct PrefillTokens {
  const int8_t* codes;  // the thread's 32 of each group
  const float* scales;
  int groups;
  int token;
  int half;

  __device__ __forceinline__ PrefillTokens(const LinearWork& work, int first_token)
      : groups(work.groups),
        token(static_cast<int>(threadIdx.x) / 2),
        half(static_cast<int>(threadIdx.x) % 2) {
    static_assert(kPrefillThreads == 2 * kPrefillTokens);
    // Tokens beyond the last one read the last one: nobody looks at their sums.
    const int64_t place = least(first_token + token, work.tokens - 1);
    codes = work.codes + place * work.code_stride + half * 32;
    scales = work.code_scales + place * work.groups;
  }

  // One group of copies, an empty one beyond the last group of columns.
  __device__ __forceinline__ void copy(PrefillMemory& memory, int group) const {
    if (group < groups) {
      uint4* place = &memory.codes[group % kPrefillStages][token][half * 2];
      const int8_t* from = codes + group * kColumnGroup;
      copy_async_16(place, from);
      copy_async_16(place + 1, from + 16);
    }
    copy_async_commit();
  }

  __device__ __forceinline__ float scale(int group) const {
    return group < groups ? scales[group] : 0.0f;
  }
  __device__ __forceinline__ void leave_scale(PrefillMemory& memory, int group, float scale) const {
    if (half == 0) memory.token_scales[group % 2][token] = scale;
  }
};

// The sums of a lane: [8 tokens at a time][product][accumulator], see weights_integer.cuh.
using LaneSums = float[kPrefillTokens / 8][2][4];

// Adds one group of columns.
__device__ __forceinline__ void add_group(const unsigned (&a)[2][2][4], const float (&scales)[4],
                                          const uint4 (&codes)[kPrefillTokens][kColumnGroup / 16],
                                          const float (&token_scales)[kPrefillTokens], int lane,
                                          LaneSums& sums) {
#pragma unroll
  for (int n = 0; n < kPrefillTokens / 8; ++n) {
    int totals[2][4];
    multiply(a, codes[8 * n + lane / 4][lane % 4], totals);
    const float2 pair = *reinterpret_cast<const float2*>(token_scales + 8 * n + lane % 4 * 2);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float scale = scales[2 * m + i / 2] * (i % 2 == 0 ? pair.x : pair.y);
        sums[n][m][i] = fmaf(total_of(totals[m][i]), scale, sums[n][m][i]);
      }
    }
  }
}

// Half of a warp's outputs at a time pass through shared memory, which gives each lane one row: the
// epilogue is compiled once instead of 64 times, and memory is written in whole lines.
template <typename Type>
__device__ __forceinline__ void finish_all(const LinearWork& work, int first_row, int first_token,
                                           int lane, const LaneSums& sums, PrefillSums& memory) {
  const int row = first_row + lane;
#pragma unroll
  for (int part = 0; part < kPrefillTokens / kSumTokens; ++part) {
    __syncwarp();
#pragma unroll
    for (int n = 0; n < kSumTokens / 8; ++n) {
      const float (&tile)[2][4] = sums[part * (kSumTokens / 8) + n];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        *reinterpret_cast<float4*>(memory[8 * n + lane % 4 * 2 + i] + lane / 4 * 4) =
            make_float4(tile[0][i], tile[0][2 + i], tile[1][i], tile[1][2 + i]);
      }
    }
    __syncwarp();
    const int token = first_token + part * kSumTokens;
    const int count = row < work.rows ? least(work.tokens - token, kSumTokens) : 0;
#pragma unroll 1
    for (int t = 0; t < count; ++t) {
      finish(work, row, token + t, with_unit<Type>(work, row, memory[t][lane]));
    }
  }
}

template <typename Type>
__device__ __forceinline__ void prefill(const LinearWork& work, int first_row, int first_token,
                                        PrefillMemory& memory) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warp_row = first_row + warp * kWarpRows;
  const IntegerLane<Type> matrix(work, warp_row, lane);
  const PrefillTokens tokens(work, first_token);
  IntegerGroup<Type> weights;
  matrix.load(weights, 0, lane);
  for (int group = 0; group < kPrefillStages - 1; ++group) tokens.copy(memory, group);
  tokens.leave_scale(memory, 0, tokens.scale(0));
  float next_scale = tokens.scale(1);
  LaneSums sums = {};
#pragma unroll 1
  for (int group = 0; group < work.groups; ++group) {
    copy_async_wait<kPrefillStages - 2>();
    // From here on all can read this group, and nobody reads the one before.
    __syncthreads();
    tokens.copy(memory, group + kPrefillStages - 1);
    tokens.leave_scale(memory, group + 1, next_scale);
    next_scale = tokens.scale(group + 2);
    unsigned a[2][2][4];
    weights.unpack(a, lane);
    const float scales[4] = {weights.scale(0), weights.scale(1), weights.scale(2),
                             weights.scale(3)};
    if (group + 1 < work.groups) matrix.load(weights, group + 1, lane);
    add_group(a, scales, memory.codes[group % kPrefillStages], memory.token_scales[group % 2], lane,
              sums);
  }
  __syncthreads();
  finish_all<Type>(work, warp_row, first_token, lane, sums, memory.sums[warp]);
}

}  // namespace pythia_rt::cuda
