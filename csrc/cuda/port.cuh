// The only CUDA header that a kernel file includes: nvcc's side, or the emulator's.
//
// Both offer CUDA's own names (threadIdx, __syncthreads, __shfl_xor_sync, uint4, fmaf, ...) and:
//
//   SHARED(float, sums, [8][32]);             shared memory, 16-byte aligned; 48 KiB in all
//   LAUNCH((kernel<8>), grid, block, stream, arguments...);
//   mma_s8(d, a, b)                           m16n8k32, signed 8-bit integers: d += a * b
//   copy_async_16(shared, global)             16 bytes, done when waited for
//   copy_async_commit(), copy_async_wait<n>() groups of copies; all but the last n are done
//   half_to_float(bits), float_to_half(x), bfloat_to_float(bits)
// Kernels, and the types that they take by value, stand outside unnamed namespaces: in the tests
// nvcc's PTX takes their place by their names.
#pragma once

#if defined(__CUDACC__)
#include "cuda/nvcc_port.cuh"
#else
#include "emulator/port.h"
#endif
