// The emulator's side of port.cuh: CUDA's names as kernels use them, for an ordinary compiler.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "base/half.h"
#include "cuda/emulator/launch.h"
#include "cuda/emulator/scheduler.h"
#include "cuda/emulator/vector_types.h"

#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#if defined(PYTHIA_RT_WEAK_KERNELS)
// Translated PTX of the same names takes their place when it is linked.
#define __global__ __attribute__((weak, noipa))
#else
#define __global__ __attribute__((noipa))
#endif

#define PYTHIA_RT_TEXT_OF(x) #x
#define PYTHIA_RT_TEXT(x) PYTHIA_RT_TEXT_OF(x)
#define PYTHIA_RT_SITE __FILE__ ":" PYTHIA_RT_TEXT(__LINE__)

#define threadIdx (::pythia_rt::cuda::emulator::current->index)
#define blockIdx (::pythia_rt::cuda::emulator::block_index)
#define blockDim (::pythia_rt::cuda::emulator::block_size)
#define gridDim (::pythia_rt::cuda::emulator::grid_size)

#define SHARED(type, name, ...)                     \
  typedef type name##_array __VA_ARGS__;            \
  static const char name##_key = 0;                 \
  name##_array& name = *static_cast<name##_array*>( \
      ::pythia_rt::cuda::emulator::shared(sizeof(name##_array), 16, &name##_key))
#define LAUNCH(kernel, grid, block, stream, ...) \
  ::pythia_rt::cuda::emulator::launch(grid, block, stream, kernel, __VA_ARGS__)

#define __syncthreads()                                                                          \
  ((void)::pythia_rt::cuda::emulator::block_sync(::pythia_rt::cuda::emulator::Barrier::plain, 0, \
                                                 PYTHIA_RT_SITE))
#define __syncwarp(...) \
  ::pythia_rt::cuda::emulator::sync_warp(PYTHIA_RT_SITE __VA_OPT__(, ) __VA_ARGS__)
#define __shfl_sync(...)                                                                 \
  ::pythia_rt::cuda::emulator::shuffle(::pythia_rt::cuda::emulator::Collective::shuffle, \
                                       PYTHIA_RT_SITE, __VA_ARGS__)
#define __shfl_up_sync(...)                                                                 \
  ::pythia_rt::cuda::emulator::shuffle(::pythia_rt::cuda::emulator::Collective::shuffle_up, \
                                       PYTHIA_RT_SITE, __VA_ARGS__)
#define __shfl_down_sync(...)                                                                 \
  ::pythia_rt::cuda::emulator::shuffle(::pythia_rt::cuda::emulator::Collective::shuffle_down, \
                                       PYTHIA_RT_SITE, __VA_ARGS__)
#define __shfl_xor_sync(...)                                                                 \
  ::pythia_rt::cuda::emulator::shuffle(::pythia_rt::cuda::emulator::Collective::shuffle_xor, \
                                       PYTHIA_RT_SITE, __VA_ARGS__)
#define __ballot_sync(...) ::pythia_rt::cuda::emulator::vote(PYTHIA_RT_SITE, __VA_ARGS__)
#define mma_s8(...) ::pythia_rt::cuda::emulator::multiply(PYTHIA_RT_SITE, __VA_ARGS__)
#define copy_async_16(...) ::pythia_rt::cuda::emulator::copy(PYTHIA_RT_SITE, __VA_ARGS__)

#include "cuda/emulator/intrinsics.h"
