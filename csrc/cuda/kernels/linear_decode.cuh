// The product of few tokens and a matrix of integers: waiting for the weights is all there is.
//
// A block of threads owns 32 rows of 8 tokens. In each round its warps take one group of columns
// each and leave the integer totals in shared memory; there the thread that owns an output adds
// the round's groups in order, while the weights of the next two rounds are on their way: a matrix
// of few rows has few blocks, and each must ask for many bytes at a time.
#pragma once

#include "cuda/kernels/epilogue.cuh"
#include "cuda/kernels/weights_integer.cuh"

namespace pythia_rt::cuda {

constexpr int kDecodeWarps = 16;
constexpr int kDecodeTokens = 8;
constexpr int kDecodeRounds = 2;  // under way
static_assert(kDecodeWarps >= kDecodeTokens, "a thread owns one output");

// What one round leaves. Rows of totals are padded: the four lanes that write totals of tokens 0,
// 2, 4 and 6 at once meet different banks.
struct DecodeRound {
  int totals[kDecodeWarps][kDecodeTokens][kWarpRows + 4];
  float weight_scales[kDecodeWarps][kWarpRows];
  float token_scales[kDecodeWarps][kDecodeTokens];
};

// A lane's part of what a warp needs for one group.
template <typename Type>
struct DecodeGroup {
  IntegerGroup<Type> weights;
  uint4 codes;
  float token_scale;  // of token `lane`, in the first lanes
};

template <typename Type>
struct Decoder {
  const LinearWork& work;
  IntegerLane<Type> matrix;
  const uint8_t* codes;
  const float* token_scales;
  int warp;
  int lane;
  int tokens;  // of this block

  __device__ __forceinline__ Decoder(const LinearWork& w, int first_row, int first_token)
      : work(w),
        matrix(w, first_row, static_cast<int>(threadIdx.x) % 32),
        warp(static_cast<int>(threadIdx.x) / 32),
        lane(static_cast<int>(threadIdx.x) % 32),
        tokens(least(w.tokens - first_token, kDecodeTokens)) {
    // Tokens beyond the last one read the last one: nobody looks at their totals.
    const int64_t token = first_token + least(lane / 4, tokens - 1);
    codes = reinterpret_cast<const uint8_t*>(w.codes) + token * w.code_stride + lane % 4 * 16;
    const int64_t scaled_token = first_token + least(lane, tokens - 1);
    token_scales = w.code_scales + scaled_token * w.groups;
  }

  __device__ __forceinline__ void load(DecodeGroup<Type>& group, int index) const {
    if (index >= work.groups) return;
    matrix.load(group.weights, index, lane);
    group.codes = *reinterpret_cast<const uint4*>(codes + index * kColumnGroup);
    if (lane < kDecodeTokens) group.token_scale = token_scales[index];
  }

  __device__ __forceinline__ void leave(const DecodeGroup<Type>& group, DecodeRound& round) const {
    unsigned a[2][2][4];
    group.weights.unpack(a, lane);
    int totals[2][4];
    multiply(a, group.codes, totals);
    const int q = lane % 4;
    const int row = lane / 4 * 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = 2 * q + i;
      if (token < tokens) {
        *reinterpret_cast<int4*>(round.totals[warp][token] + row) =
            make_int4(totals[0][i], totals[0][2 + i], totals[1][i], totals[1][2 + i]);
      }
    }
    if (q == 0) {
      *reinterpret_cast<float4*>(round.weight_scales[warp] + row) =
          make_float4(group.weights.scale(0), group.weights.scale(1), group.weights.scale(2),
                      group.weights.scale(3));
    }
    if (lane < kDecodeTokens) round.token_scales[warp][lane] = group.token_scale;
  }

  // The lane's row, the warp's token.
  __device__ __forceinline__ float add(const DecodeRound& round, int groups, float sum) const {
#pragma unroll
    for (int i = 0; i < kDecodeWarps; ++i) {
      if (i < groups) {
        const float scale = round.weight_scales[i][lane] * round.token_scales[i][warp];
        sum = fmaf(total_of(round.totals[i][warp][lane]), scale, sum);
      }
    }
    return sum;
  }
};

template <typename Type>
__device__ __forceinline__ void decode(const LinearWork& work, int first_row, int first_token,
                                       DecodeRound (&rounds)[kDecodeRounds]) {
  const Decoder<Type> decoder(work, first_row, first_token);
  const bool is_owner = decoder.warp < decoder.tokens;
  DecodeGroup<Type> groups[kDecodeRounds] = {};
#pragma unroll
  for (int turn = 0; turn < kDecodeRounds; ++turn) {
    decoder.load(groups[turn], decoder.warp + turn * kDecodeWarps);
  }
  float sum = 0;
#pragma unroll 1
  for (int first = 0; first < work.groups; first += kDecodeRounds * kDecodeWarps) {
#pragma unroll  // an index that is no constant would put the groups into memory
    for (int turn = 0; turn < kDecodeRounds; ++turn) {
      const int begin = first + turn * kDecodeWarps;
      if (begin >= work.groups) break;  // all threads alike
      const int index = begin + decoder.warp;
      if (index < work.groups) decoder.leave(groups[turn], rounds[turn]);
      decoder.load(groups[turn], index + kDecodeRounds * kDecodeWarps);
      // One barrier a round: what is written next was read a round ago.
      __syncthreads();
      if (is_owner) sum = decoder.add(rounds[turn], work.groups - begin, sum);
    }
  }
  const int row = first_row + decoder.lane;
  if (is_owner && row < work.rows) {
    finish(work, row, first_token + decoder.warp, with_unit<Type>(work, row, sum));
  }
}

}  // namespace pythia_rt::cuda
