// Rotary position embedding (Su et al. 2021), the rotate-half pairing of GPT-NeoX: of a head's
// first rotary_dim values, the first half is paired with the second.
#pragma once

#include "kernels/table.h"

namespace pythia_rt::PYTHIA_RT_ISA {

// Plain arithmetic: the compiler may vectorise it but, with contraction off, not change a bit.
inline void rotate(const RopeArguments& arguments) {
  float* head = arguments.query_key_value + arguments.head * arguments.head_dim;
  const int64_t half = arguments.rotary_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float first = head[i];
    const float second = head[i + half];
    head[i] = first * arguments.cosines[i] - second * arguments.sines[i];
    head[i + half] = second * arguments.cosines[i] + first * arguments.sines[i];
  }
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
