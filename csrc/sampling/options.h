// What a user may choose about sampling. The defaults switch every step off.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace pythia_rt {

struct SamplingOptions {
#define PYTHIA_RT_SAMPLING_OPTION(type, name, off, least, most, range) type name = off;
#include "sampling/options.inc"
#undef PYTHIA_RT_SAMPLING_OPTION
  std::vector<std::pair<std::int32_t, float>> logit_bias;  // (id, added); -infinity bans the id
  std::uint64_t seed = 0;
};

// Throws std::invalid_argument, naming the first option that is out of its range for a vocabulary
// of n_tokens ids.
void check_options(const SamplingOptions& options, std::int32_t n_tokens);

}  // namespace pythia_rt
