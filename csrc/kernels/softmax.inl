// The denominator of a softmax over a row of logits, run by run, so that nobody needs a whole row.
#pragma once

#include "kernels/table.h"
#include "simd/math.h"

namespace pythia_rt::PYTHIA_RT_ISA {

inline Vec largest_lanes(const float* values, int64_t n) {
  const float lowest = -__builtin_inff();
  Vec largest = broadcast(lowest);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) largest = max(largest, load(values + i));
  if (i < n) largest = max(largest, fill_after(load_first(values + i, n - i), n - i, lowest));
  return largest;
}

// Of a run of n <= kSoftmaxRun logits: the largest, and the sum of e^(logit - largest) in 16 lanes
// by index modulo 16.
inline void softmax_run(const float* logits, int64_t n, float* largest, float* sum) {
  *largest = reduce_max(largest_lanes(logits, n));
  const Vec top = broadcast(*largest);
  Vec total = zero();
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) total = total + exp(load(logits + i) - top);
  if (i < n) total = total + fill_after(exp(load_first(logits + i, n - i) - top), n - i, 0.0f);
  *sum = reduce_add(total);
}

// The same of a whole row, from those of its n_runs runs.
inline void softmax_merge(const float* run_largest, const float* run_sums, int64_t n_runs,
                          float* largest, float* sum) {
  *largest = reduce_max(largest_lanes(run_largest, n_runs));
  Vec total = zero();
  for (int64_t i = 0; i < n_runs; i += 16) {
    const Vec centred = load_first(run_largest + i, n_runs - i) - broadcast(*largest);
    const Vec weight = fill_after(exp(centred), n_runs - i, 0.0f);
    total = fma(load_first(run_sums + i, n_runs - i), weight, total);
  }
  *sum = reduce_add(total);
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
