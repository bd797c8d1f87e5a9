// Matrix products with weights of 8, 6, 5 or 4 bits and activations of 8 bits: the same bits as
// kernels/linear_integer.inl. A block of threads finds its format when it starts, so there is one
// kernel for few tokens and one for many.
#include "cuda/kernels/linear_decode.cuh"
#include "cuda/kernels/linear_prefill.cuh"

namespace pythia_rt::cuda {
namespace {

__device__ __forceinline__ void decode_format(const LinearWork& work, int first_row,
                                              int first_token,
                                              DecodeRound (&memory)[kDecodeRounds]) {
  switch (work.format) {
    case Format::q8:
      return decode<8>(work, first_row, first_token, memory);
    case Format::q6:
      return decode<6>(work, first_row, first_token, memory);
    case Format::q5:
      return decode<5>(work, first_row, first_token, memory);
    default:
      return decode<4>(work, first_row, first_token, memory);
  }
}

__device__ __forceinline__ void prefill_format(const LinearWork& work, int first_row,
                                               int first_token, PrefillMemory& memory) {
  switch (work.format) {
    case Format::q8:
      return prefill<8>(work, first_row, first_token, memory);
    case Format::q6:
      return prefill<6>(work, first_row, first_token, memory);
    case Format::q5:
      return prefill<5>(work, first_row, first_token, memory);
    default:
      return prefill<4>(work, first_row, first_token, memory);
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
