// Layer norm (Ba, Kiros, Hinton 2016): (x - mean) / sqrt(variance + epsilon) * weight + bias.
// RMS norm (Zhang, Sennrich 2019): x / sqrt(mean of x^2 + epsilon) * weight.
//
// Of rows of their own, or of parts of rows, which end where the next part begins: beyond those
// nothing is read or written.
#pragma once

#include "kernels/table.h"

namespace pythia_rt::PYTHIA_RT_ISA {

enum class Beyond { zeros, others };  // what is beyond a norm's width

template <Beyond kBeyond>
inline Vec load_left(const float* p, int64_t left) {
  if constexpr (kBeyond == Beyond::zeros) return load(p);
  return left < 16 ? load_first(p, left) : load(p);
}

template <Beyond kBeyond>
inline void store_left(float* p, Vec v, int64_t left) {
  if constexpr (kBeyond == Beyond::zeros) {
    store(p, fill_after(v, left, 0.0f));
  } else if (left < 16) {
    store_first(p, v, left);
  } else {
    store(p, v);
  }
}

template <Beyond kBeyond>
inline void layer_norm(const float* in, const float* weight, const float* bias, float epsilon,
                       int64_t width, float* out) {
  Vec total = zero();
  for (int64_t i = 0; i < width; i += 16) {
    total = total + load_left<kBeyond>(in + i, width - i);  // zero beyond the width
  }
  const float mean = reduce_add(total) / static_cast<float>(width);
  // Two passes: the difference of the mean square and the squared mean would cancel.
  Vec squares = zero();
  for (int64_t i = 0; i < width; i += 16) {
    const Vec x = load_left<kBeyond>(in + i, width - i);
    const Vec centred = fill_after(x - broadcast(mean), width - i, 0.0f);
    squares = fma(centred, centred, squares);
  }
  const float variance = reduce_add(squares) / static_cast<float>(width);
  const Vec inverse = broadcast(1.0f / square_root(variance + epsilon));
  for (int64_t i = 0; i < width; i += 16) {
    const int64_t left = width - i;
    const Vec centred = (load_left<kBeyond>(in + i, left) - broadcast(mean)) * inverse;
    const Vec gain = load_left<kBeyond>(weight + i, left);
    store_left<kBeyond>(out + i, fma(centred, gain, load_left<kBeyond>(bias + i, left)), left);
  }
}

template <Beyond kBeyond>
inline void rms_norm(const float* in, const float* weight, float epsilon, int64_t width,
                     float* out) {
  Vec squares = zero();
  for (int64_t i = 0; i < width; i += 16) {
    const Vec x = load_left<kBeyond>(in + i, width - i);  // zero beyond the width
    squares = fma(x, x, squares);
  }
  const float mean_square = reduce_add(squares) / static_cast<float>(width);
  const Vec inverse = broadcast(1.0f / square_root(mean_square + epsilon));
  for (int64_t i = 0; i < width; i += 16) {
    const int64_t left = width - i;
    const Vec gain = load_left<kBeyond>(weight + i, left);
    store_left<kBeyond>(out + i, load_left<kBeyond>(in + i, left) * inverse * gain, left);
  }
}

inline void layer_norm_rows(const NormArguments& a) {
  for (int64_t row = a.row_begin; row < a.row_end; ++row) {
    const int64_t first = row * a.stride;
    layer_norm<Beyond::zeros>(a.in + first, a.weight, a.bias, a.epsilon, a.width, a.out + first);
  }
}

inline void rms_norm_rows(const NormArguments& a) {
  for (int64_t row = a.row_begin; row < a.row_end; ++row) {
    const int64_t first = row * a.stride;
    rms_norm<Beyond::zeros>(a.in + first, a.weight, a.epsilon, a.width, a.out + first);
  }
}

inline void norm_parts(const NormPartsArguments& a) {
  for (int64_t row = a.row_begin; row < a.row_end; ++row) {
    for (int64_t part = 0; part < a.n_parts; ++part) {
      const int64_t first = part * a.width;
      float* x = a.rows + row * a.stride + first;
      if (a.bias != nullptr) {
        layer_norm<Beyond::others>(x, a.weight + first, a.bias + first, a.epsilon, a.width, x);
      } else {
        rms_norm<Beyond::others>(x, a.weight + first, a.epsilon, a.width, x);
      }
    }
  }
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
