// What a row of logits says of the token that came after it.
#pragma once

#include <cstdint>

#include "kernels/table.h"

namespace pythia_rt {

struct TokenStats {
  float log_probability;  // as scoring gives it
  double entropy;         // of the distribution, in nats
  int32_t rank;           // how many tokens were likelier
  int32_t likeliest;      // the lowest id of equals
};

// Of logits [n], finite numbers, and a token below n. Any thread may ask.
TokenStats token_stats(const KernelTable& kernels, const float* logits, int64_t n, int32_t token);

}  // namespace pythia_rt
