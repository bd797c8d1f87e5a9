// The denominator of a softmax over a row of logits.
#pragma once

#include "kernels/table.h"
#include "simd/math.h"

namespace pythia_rt::PYTHIA_RT_ISA {

// The largest of n logits, and the sum of e^(logit - largest). 16 lanes by index modulo 16, added
// up in runs of 64 vectors, so that the rounding error stays near that of a single addition.
inline void softmax_sum(const float* logits, int64_t n, float* largest, float* sum) {
  Vec top = broadcast(-__builtin_inff());
  for (int64_t i = 0; i < n; i += 16) {
    top = max(top, fill_after(load_first(logits + i, n - i), n - i, -__builtin_inff()));
  }
  *largest = reduce_max(top);
  constexpr int64_t kRun = 64 * 16;
  Vec total = zero();
  for (int64_t begin = 0; begin < n; begin += kRun) {
    Vec part = zero();
    for (int64_t i = begin; i < n && i < begin + kRun; i += 16) {
      const Vec centred = load_first(logits + i, n - i) - broadcast(*largest);
      part = part + fill_after(exp(centred), n - i, 0.0f);
    }
    total = total + part;
  }
  *sum = reduce_add(total);
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
