// Matrix products with f32, f16 or bf16 weights and f32 activations: the same bits as
// kernels/linear_float.inl. A block of threads finds its format when it starts.
#include "cuda/kernels/linear_float_decode.cuh"
#include "cuda/kernels/linear_float_prefill.cuh"
#include "formats/types.h"

namespace pythia_rt::cuda {
namespace {

// Quantised formats have kernels of their own and never come here.

template <typename Type, int kTokens>
__device__ __forceinline__ void decode_type(const LinearWork& work, int first_row, int first_token,
                                            FloatParts& memory) {
  if constexpr (!Type::kQuantised)
    decode_float<Type, kTokens>(work, first_row, first_token, memory);
}

template <typename Type>
__device__ __forceinline__ void prefill_type(const LinearWork& work, int first_row, int first_token,
                                             FloatPrefillMemory& memory) {
  if constexpr (!Type::kQuantised) prefill_float<Type>(work, first_row, first_token, memory);
}

template <int kTokens>
__device__ __forceinline__ void decode_format(const LinearWork& work, int first_row,
                                              int first_token, FloatParts& memory) {
  switch (work.format) {
#define PYTHIA_RT_FORMAT(type, name) \
  case Format::name:                 \
    return decode_type<type, kTokens>(work, first_row, first_token, memory);
#include "formats/formats.inc"
#undef PYTHIA_RT_FORMAT
  }
}

__device__ __forceinline__ void prefill_format(const LinearWork& work, int first_row,
                                               int first_token, FloatPrefillMemory& memory) {
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

template <int kTokens>
__global__ void __launch_bounds__(kFloatDecodeThreads, kTokens == 1 ? 8 : 3)
    decode_float_kernel(LinearWorks works) {
  SHARED(float, parts, [kFloatDecodeGroups][kFloatDecodeTokens * kFloatDecodeRows + 8]);
  const BlockShare share = block_share(works, kFloatDecodeRows);
  const int row = share.block * kFloatDecodeRows;
  const int token = static_cast<int>(blockIdx.x) * kTokens;
  if (share.first) decode_format<kTokens>(works.work[0], row, token, parts);
  if (share.second) decode_format<kTokens>(works.work[1], row, token, parts);
}

__global__ void __launch_bounds__(kFloatPrefillThreads) prefill_float_kernel(LinearWorks works) {
  SHARED(FloatPrefillMemory, memory, [1]);
  const BlockShare share = block_share(works, kFloatPrefillRows);
  const int row = share.block * kFloatPrefillRows;
  const int token = static_cast<int>(blockIdx.x) * kFloatPrefillTokens;
  if (share.first) prefill_format(works.work[0], row, token, memory[0]);
  if (share.first && share.second) __syncthreads();
  if (share.second) prefill_format(works.work[1], row, token, memory[0]);
}

void linear_float(Stream stream, const LinearWorks& works) {
  const int tokens = works.work[0].tokens;
  if (tokens == 1) {
    LAUNCH((decode_float_kernel<1>), works.grid(kFloatDecodeRows, 1), dim3(kFloatDecodeThreads),
           stream, works);
  } else if (tokens <= kFewTokens) {
    LAUNCH((decode_float_kernel<kFloatDecodeTokens>),
           works.grid(kFloatDecodeRows, kFloatDecodeTokens), dim3(kFloatDecodeThreads), stream,
           works);
  } else {
    LAUNCH((prefill_float_kernel), works.grid(kFloatPrefillRows, kFloatPrefillTokens),
           dim3(kFloatPrefillThreads), stream, works);
  }
}

}  // namespace pythia_rt::cuda
