// What becomes of a matrix product's sum: bias, epilogue, memory.
#pragma once

#include "cuda/kernels/linear_work.cuh"
#include "cuda/kernels/math.cuh"

namespace pythia_rt::cuda {

// What y becomes that goes to `out`.
__device__ __forceinline__ float finished(Epilogue epilogue, float y, const float* out) {
  switch (epilogue) {
    case Epilogue::store:
      break;
    case Epilogue::add:
      y = *out + y;
      break;
#define PYTHIA_RT_ACTIVATE(name) \
  case Epilogue::name:           \
    y = name(y);                 \
    break;
      PYTHIA_RT_ACTIVATIONS(PYTHIA_RT_ACTIVATE)
#undef PYTHIA_RT_ACTIVATE
  }
  return y;
}

__device__ __forceinline__ void finish(const LinearWork& work, int row, int token, float y) {
  float* out = work.out + token * work.out_stride + row;
  if (work.bias != nullptr) y = y + work.bias[row];
  *out = finished(work.epilogue, y, out);
}

}  // namespace pythia_rt::cuda
