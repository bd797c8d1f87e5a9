// What both attention kernels share: their arguments, and how keys and values of a block of
// positions reach shared memory, a stage at a time (kernels/attention.inl says what is computed).
#pragma once

#include "base/window.h"
#include "cuda/kernels/kv_cache.cuh"
#include "cuda/kernels/lanes.cuh"
#include "cuda/kernels/launch.h"
#include "cuda/port.cuh"

namespace pythia_rt::cuda {

constexpr int kAttentionThreads = 128;
constexpr int kPositions = kAttentionBlock;  // of a block, which is what a page holds
constexpr int kPositionTiles = kPositions / 16;

struct AttentionArguments {
  HeadLayout heads;
  Scoring scoring;
  int64_t layer;
  Rows qkv;
  KvFormat format;
  Places places;
  Rows out;
};

// A score from its product, of the key at a position that has a bias if any has.
__device__ __forceinline__ float score_of(const Scoring& scoring, float product, int64_t head,
                                          int position) {
  const float scaled = product * scoring.scale;
  if (scoring.bias == nullptr) return scaled;
  return scaled + scoring.bias[head * scoring.bias_positions + position];
}

__device__ __forceinline__ float minus_infinity() { return __uint_as_float(0xff800000u); }

// Some dimensions of the keys of a block, or some positions of its values: about kBytes of them,
// which are copied while the stage before is worked on. All threads copy.
template <typename Cache, int kBytes>
struct Stage {
  using Code = typename Cache::Code;
  static constexpr int kCodeBytes = static_cast<int>(sizeof(Code));
  // Keys: [kPositionTiles][kDims][16]; a tile has room for one dimension more, or tiles would begin
  // at the same banks of shared memory.
  static constexpr int kDims = kBytes / (kPositions * kCodeBytes);
  static constexpr int kTileStride = (kDims + 1) * 16;
  static constexpr int kCodes = kPositionTiles * kTileStride;
  static_assert(kDims % kKvGroup == 0, "groups that share a scale must not be cut");

  // Values: so many positions of `padded` codes.
  static __device__ __forceinline__ int positions(int padded) {
    return least(kPositions, kBytes / (padded * kCodeBytes) / 4 * 4);
  }

  static __device__ __forceinline__ void copy(void* to, const void* from, int bytes) {
    for (int i = 16 * static_cast<int>(threadIdx.x); i < bytes; i += 16 * kAttentionThreads) {
      copy_async_16(static_cast<std::byte*>(to) + i, static_cast<const std::byte*>(from) + i);
    }
  }

  // Dimensions [begin, begin + kDims) of the first `n_tiles` tiles.
  static __device__ __forceinline__ void copy_keys(const HeadBlock<Cache>& block, int head_dim,
                                                   int n_tiles, int begin, Code* to) {
    const int bytes = least(kDims, head_dim - begin) * 16 * kCodeBytes;
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    for (int tile = warp; tile < n_tiles; tile += kAttentionThreads / kWarp) {
      auto* tile_to = reinterpret_cast<std::byte*>(to + tile * kTileStride);
      const auto* from =
          reinterpret_cast<const std::byte*>(block.keys + (tile * head_dim + begin) * 16);
      for (int i = 16 * lane; i < bytes; i += 16 * kWarp) copy_async_16(tile_to + i, from + i);
    }
  }

  // Positions [begin, end).
  static __device__ __forceinline__ void copy_values(const HeadBlock<Cache>& block, int padded,
                                                     int begin, int end, Code* to) {
    copy(to, block.values + begin * padded, (end - begin) * padded * kCodeBytes);
  }
};

}  // namespace pythia_rt::cuda
