// Matrix products with weights of 8, 6, 5 or 4 bits and activations of 8 bits: the same bits as
// kernels/linear_integer.inl. A block of threads finds its format when it starts, so there is one
// kernel for few tokens and one for many.
#include "cuda/kernels/linear_decode.cuh"
#include "cuda/kernels/linear_prefill.cuh"
#include "formats/types.h"

namespace pythia_rt::cuda {
namespace {

// Formats of floats have kernels of their own and never come here.

template <typename Type>
__device__ __forceinline__ void decode_type(const LinearWork& work, int first_row, int first_token,
                                            DecodeRound (&memory)[kDecodeRounds]) {
  if constexpr (Type::kQuantised) decode<Type>(work, first_row, first_token, memory);
}

template <typename Type>
__device__ __forceinline__ void prefill_type(const LinearWork& work, int first_row, int first_token,
                                             PrefillMemory& memory) {
  if constexpr (Type::kQuantised) prefill<Type>(work, first_row, first_token, memory);
}

__device__ __forceinline__ void decode_format(const LinearWork& work, int first_row,
                                              int first_token,
                                              DecodeRound (&memory)[kDecodeRounds]) {
  switch (work.format) {
#define PYTHIA_RT_FORMAT(type, name) \
  case Format::name:                 \
    return decode_type<type>(work, first_row, first_token, memory);
#include "formats/formats.inc"
#undef PYTHIA_RT_FORMAT
  }
}

__device__ __forceinline__ void prefill_format(const LinearWork& work, int first_row,
                                               int first_token, PrefillMemory& memory) {
  switch (work.format) {
#define PYTHIA_RT_FORMAT(type, name) \
  case Format::name:                 \
    return prefill_type<type>(work, first_row, first_token, memory);
#include "formats/formats.inc"
#undef PYTHIA_RT_FORMAT
  }
}

}  // namespace

// Kernels have names of their own, so that translated PTX can take their place in tests.

__global__ void __launch_bounds__(kDecodeWarps * 32) decode_integer(LinearWorks works) {
  SHARED(DecodeRound, rounds, [kDecodeRounds]);
  const BlockShare share = block_share(works, kWarpRows);
  const int row = share.block * kWarpRows;
  const int token = static_cast<int>(blockIdx.x) * kDecodeTokens;
  if (share.first) decode_format(works.work[0], row, token, rounds);
  if (share.first && share.second) __syncthreads();
  if (share.second) decode_format(works.work[1], row, token, rounds);
}

__global__ void __launch_bounds__(kPrefillThreads, 2) prefill_integer(LinearWorks works) {
  SHARED(PrefillMemory, memory, [1]);
  const BlockShare share = block_share(works, kPrefillRows);
  const int row = share.block * kPrefillRows;
  const int token = static_cast<int>(blockIdx.x) * kPrefillTokens;
  if (share.first) prefill_format(works.work[0], row, token, memory[0]);
  if (share.first && share.second) __syncthreads();
  if (share.second) prefill_format(works.work[1], row, token, memory[0]);
}

void linear_integer(Stream stream, const LinearWorks& works) {
  if (works.work[0].tokens <= kFewTokens) {
    const dim3 grid = works.grid(kWarpRows, kDecodeTokens);
    LAUNCH((decode_integer), grid, dim3(kDecodeWarps * 32), stream, works);
  } else {
    const dim3 grid = works.grid(kPrefillRows, kPrefillTokens);
    LAUNCH((prefill_integer), grid, dim3(kPrefillThreads), stream, works);
  }
}

}  // namespace pythia_rt::cuda
