// The emulator's side of port.cuh: CUDA's names as kernels use them, for an ordinary compiler.
#pragma once

#include "emulator/atomics.h"
#include "emulator/intrinsics.h"
#include "emulator/launch.h"
#include "emulator/scheduler.h"
#include "emulator/vector_types.h"
#include "emulator/warp.h"

#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// A kernel is called through its address alone, as on a device.
#if defined(PYTHIA_RT_WEAK_KERNELS)
// Translated PTX of the same names takes their place when it is linked.
#define __global__ __attribute__((weak, noipa))
#else
#define __global__ __attribute__((noipa))
#endif

constexpr int warpSize = 32;
#define threadIdx (::pythia_rt::cuda::emulator::current->index)
#define blockIdx (::pythia_rt::cuda::emulator::block_index)
#define blockDim (::pythia_rt::cuda::emulator::block_size)
#define gridDim (::pythia_rt::cuda::emulator::grid_size)

#define PYTHIA_RT_TEXT_OF(x) #x
#define PYTHIA_RT_TEXT(x) PYTHIA_RT_TEXT_OF(x)
#define PYTHIA_RT_SITE __FILE__ ":" PYTHIA_RT_TEXT(__LINE__)

// The key is a variable, not a text: every instance of a template has memory of its own.
#define SHARED(type, name, ...)                                                         \
  typedef type name##_array __VA_ARGS__;                                                \
  static const char name##_key[] = PYTHIA_RT_SITE;                                      \
  name##_array& name = *static_cast<name##_array*>(::pythia_rt::cuda::emulator::shared( \
      sizeof(name##_array), alignof(name##_array) > 16 ? alignof(name##_array) : 16, name##_key))
#define LAUNCH(kernel, grid, block, stream, ...) \
  ::pythia_rt::cuda::emulator::launch(grid, block, stream, kernel __VA_OPT__(, ) __VA_ARGS__)

#define PYTHIA_RT_BLOCK_SYNC(kind, predicate)                                         \
  ::pythia_rt::cuda::emulator::block_sync(::pythia_rt::cuda::emulator::Barrier::kind, \
                                          (predicate) ? 1 : 0, PYTHIA_RT_SITE)
#define __syncthreads() static_cast<void>(PYTHIA_RT_BLOCK_SYNC(plain, false))
#define __syncthreads_or(predicate) PYTHIA_RT_BLOCK_SYNC(any, predicate)
#define __syncthreads_and(predicate) PYTHIA_RT_BLOCK_SYNC(all, predicate)
#define __syncthreads_count(predicate) PYTHIA_RT_BLOCK_SYNC(count, predicate)

// A function of warp.h with the place of the call; of a group of them, by their purpose.
#define PYTHIA_RT_PLACED(function, ...) \
  ::pythia_rt::cuda::emulator::function(PYTHIA_RT_SITE __VA_OPT__(, ) __VA_ARGS__)
#define PYTHIA_RT_COLLECTIVE(function, purpose, ...)                                      \
  ::pythia_rt::cuda::emulator::function(::pythia_rt::cuda::emulator::Collective::purpose, \
                                        PYTHIA_RT_SITE, __VA_ARGS__)

#define __syncwarp(...) PYTHIA_RT_PLACED(sync_warp __VA_OPT__(, ) __VA_ARGS__)
#define __ballot_sync(...) PYTHIA_RT_PLACED(ballot, __VA_ARGS__)
#define __any_sync(...) PYTHIA_RT_PLACED(vote_any, __VA_ARGS__)
#define __all_sync(...) PYTHIA_RT_PLACED(vote_all, __VA_ARGS__)
#define mma_s8(...) PYTHIA_RT_PLACED(multiply, __VA_ARGS__)
#define copy_async_16(...) PYTHIA_RT_PLACED(begin_copy, __VA_ARGS__)

#define __shfl_sync(...) PYTHIA_RT_COLLECTIVE(shuffle, shuffle, __VA_ARGS__)
#define __shfl_up_sync(...) PYTHIA_RT_COLLECTIVE(shuffle, shuffle_up, __VA_ARGS__)
#define __shfl_down_sync(...) PYTHIA_RT_COLLECTIVE(shuffle, shuffle_down, __VA_ARGS__)
#define __shfl_xor_sync(...) PYTHIA_RT_COLLECTIVE(shuffle, shuffle_xor, __VA_ARGS__)
#define __reduce_add_sync(...) PYTHIA_RT_COLLECTIVE(reduce, reduce_add, __VA_ARGS__)
#define __reduce_max_sync(...) PYTHIA_RT_COLLECTIVE(reduce, reduce_max, __VA_ARGS__)
#define __reduce_min_sync(...) PYTHIA_RT_COLLECTIVE(reduce, reduce_min, __VA_ARGS__)
#define __reduce_and_sync(...) PYTHIA_RT_COLLECTIVE(reduce, reduce_and, __VA_ARGS__)
#define __reduce_or_sync(...) PYTHIA_RT_COLLECTIVE(reduce, reduce_or, __VA_ARGS__)
#define __reduce_xor_sync(...) PYTHIA_RT_COLLECTIVE(reduce, reduce_xor, __VA_ARGS__)
