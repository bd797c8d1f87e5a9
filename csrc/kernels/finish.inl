// What becomes of the outputs of a matrix product (base/epilogue.h), on their way out or later.
#pragma once

#include "kernels/table.h"
#include "simd/math.h"

namespace pythia_rt::PYTHIA_RT_ISA {

// What y becomes that goes to `out`. Part of its callers always: left alone, GCC 12 calls it in
// some, for each vector, and products whose caller it had filled otherwise spill.
[[gnu::always_inline]] inline Vec finished(Epilogue epilogue, Vec y, const float* out) {
  switch (epilogue) {
    case Epilogue::store:
      break;
    case Epilogue::add:
      y = load(out) + y;
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

// Where 16 outputs of one row go.
inline float* place_of(const LinearArguments& arguments, int64_t block, int64_t row) {
  return arguments.out + row * arguments.out_stride + (block - arguments.out_block) * kRowBlock;
}

// Asks for the places of `rows` rows, each in a cache line of its own, before their sums are there.
[[gnu::always_inline]] inline void ask_for_places(const LinearArguments& arguments, int64_t block,
                                                  int64_t row, int rows) {
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) __builtin_prefetch(place_of(arguments, block, row + r), 1);
}

// Adds the bias and sends 16 outputs of one row on their way.
inline void finish(const LinearArguments& arguments, int64_t block, int64_t row, Vec y) {
  float* out = place_of(arguments, block, row);
  const float* bias = arguments.matrix->bias;
  if (bias != nullptr) y = y + load(bias + block * kRowBlock);
  store(out, finished(arguments.epilogue, y, out));
}

// Beyond the width the input counts as 0, which every epilogue leaves as it is.
inline void finish_rows(const FinishArguments& arguments) {
  for (int64_t row = arguments.row_begin; row < arguments.row_end; ++row) {
    const float* in = arguments.in + row * arguments.in_stride;
    float* out = arguments.out + row * arguments.out_stride;
    for (int64_t i = 0; i < arguments.width; i += 16) {
      const int64_t left = arguments.width - i;
      const Vec x = left < 16 ? load_first(in + i, left) : load(in + i);
      store(out + i, finished(arguments.epilogue, x, out + i));
    }
  }
}

inline void finish_gated_rows(const FinishArguments& arguments) {
  for (int64_t row = arguments.row_begin; row < arguments.row_end; ++row) {
    const float* in = arguments.in + row * arguments.in_stride;
    float* out = arguments.out + row * arguments.out_stride;
    for (int64_t i = 0; i < arguments.width; i += 16) {
      const Vec gate = finished(arguments.epilogue, load(in + 2 * i), out + i);
      store(out + i, gate * load(in + 2 * i + 16));
    }
  }
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
