// The CPU's vector of 16 lanes in half a warp: its sums and maxima across lanes, with the order of
// additions of simd/scalar.h.
#pragma once

#include "cuda/kernels/math.cuh"
#include "cuda/port.cuh"

namespace pythia_rt::cuda {

constexpr int kLanes = 16;
constexpr int kWarp = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;

// Each half of a warp by itself; the whole warp must call. Every lane gets the result.
__device__ __forceinline__ float reduce_add(float lane) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    lane = lane + __shfl_xor_sync(kWholeWarp, lane, distance);
  }
  return lane;
}

// Of equal values, 0 and -0, the one the CPU takes: its order makes the first lane's result.
__device__ __forceinline__ float reduce_max(float lane) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    lane = larger(lane, __shfl_xor_sync(kWholeWarp, lane, distance));
  }
  return __shfl_sync(kWholeWarp, lane, static_cast<int>(threadIdx.x) & kLanes);
}

}  // namespace pythia_rt::cuda
