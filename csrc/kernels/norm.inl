// Layer norm (Ba, Kiros, Hinton 2016): (x - mean) / sqrt(variance + epsilon) * weight + bias.
// RMS norm (Zhang, Sennrich 2019): x / sqrt(mean of x^2 + epsilon) * weight.
#pragma once

#include "kernels/table.h"

namespace pythia_rt::PYTHIA_RT_ISA {

inline void layer_norm_row(const NormArguments& arguments, int64_t row) {
  const float* in = arguments.in + row * arguments.stride;
  float* out = arguments.out + row * arguments.stride;
  const int64_t width = arguments.width;
  Vec total = zero();
  for (int64_t i = 0; i < width; i += 16) total = total + load(in + i);  // zero beyond the width
  const float mean = reduce_add(total) / static_cast<float>(width);
  // Two passes: the difference of the mean square and the squared mean would cancel.
  Vec squares = zero();
  for (int64_t i = 0; i < width; i += 16) {
    const Vec centred = fill_after(load(in + i) - broadcast(mean), width - i, 0.0f);
    squares = fma(centred, centred, squares);
  }
  const float variance = reduce_add(squares) / static_cast<float>(width);
  const Vec inverse = broadcast(1.0f / square_root(variance + arguments.epsilon));
  for (int64_t i = 0; i < width; i += 16) {
    const Vec centred = (load(in + i) - broadcast(mean)) * inverse;
    const Vec y = fma(centred, load(arguments.weight + i), load(arguments.bias + i));
    store(out + i, fill_after(y, width - i, 0.0f));
  }
}

inline void rms_norm_row(const NormArguments& arguments, int64_t row) {
  const float* in = arguments.in + row * arguments.stride;
  float* out = arguments.out + row * arguments.stride;
  const int64_t width = arguments.width;
  Vec squares = zero();
  for (int64_t i = 0; i < width; i += 16) {
    const Vec x = load(in + i);  // zero beyond the width
    squares = fma(x, x, squares);
  }
  const float mean_square = reduce_add(squares) / static_cast<float>(width);
  const Vec inverse = broadcast(1.0f / square_root(mean_square + arguments.epsilon));
  for (int64_t i = 0; i < width; i += 16) {
    const Vec y = load(in + i) * inverse * load(arguments.weight + i);
    store(out + i, fill_after(y, width - i, 0.0f));
  }
}

inline void layer_norm(const NormArguments& arguments) {
  for (int64_t row = arguments.row_begin; row < arguments.row_end; ++row) {
    layer_norm_row(arguments, row);
  }
}

inline void rms_norm(const NormArguments& arguments) {
  for (int64_t row = arguments.row_begin; row < arguments.row_end; ++row) {
    rms_norm_row(arguments, row);
  }
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
