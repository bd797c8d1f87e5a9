// What a user may choose about sampling. The defaults switch every step off.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace pythia_rt {

struct SamplingOptions {
  double temperature = 1.0;         // >= 0; divides the logits; 0 takes the largest logit
  std::int64_t top_k = 0;           // >= 0; 0 is off
  double top_p = 1.0;               // (0, 1]; 1 is off
  double min_p = 0.0;               // [0, 1]; 0 is off
  double typical_p = 1.0;           // (0, 1]; 1 is off
  double repetition_penalty = 1.0;  // [0.001, 1000]; 1 is off; over prompt and generated tokens
  double presence_penalty = 0.0;    // [-100, 100]; 0 is off; over generated tokens
  double frequency_penalty = 0.0;   // [-100, 100]; 0 is off; over generated tokens
  std::vector<std::pair<std::int32_t, float>> logit_bias;  // (id, added); -infinity bans the id
  std::uint64_t seed = 0;
};

// Throws std::invalid_argument, naming the first option that is out of its range for a vocabulary
// of n_tokens ids.
void check_options(const SamplingOptions& options, std::int32_t n_tokens);

}  // namespace pythia_rt
