// What becomes of the outputs of a matrix product.
#pragma once

#include "kernels/table.h"
#include "simd/math.h"

namespace pythia_rt::PYTHIA_RT_ISA {

// Adds the bias and sends 16 outputs of one row on their way.
inline void finish(const LinearArguments& arguments, int64_t block, int64_t row, Vec y) {
  float* out =
      arguments.out + row * arguments.out_stride + (block - arguments.out_block) * kRowBlock;
  const float* bias = arguments.matrix->bias;
  if (bias != nullptr) y = y + load(bias + block * kRowBlock);
  switch (arguments.epilogue) {
    case Epilogue::store:
      break;
    case Epilogue::add:
      y = load(out) + y;
      break;
    case Epilogue::gelu:
      y = gelu(y);
      break;
    case Epilogue::gelu_tanh:
      y = gelu_tanh(y);
      break;
  }
  store(out, y);
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
