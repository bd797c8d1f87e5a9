// Chooses the next token from a model's logits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "sampling/options.h"
#include "sampling/steps.h"

namespace pythia_rt {

// The same options, logits and calls give the same tokens on every machine and with every C++
// library: the generator is specified by the standard, all arithmetic is IEEE double in a fixed
// order, and ties are broken by id. One thread at a time. What it works in is its thread's, for all
// samplers: where many texts are written, nearer memory than one of its own each would be.
class Sampler {
 public:
  // Ids 0 .. n_tokens - 1 may be sampled. Throws std::invalid_argument as check_options does.
  Sampler(std::int32_t n_tokens, const SamplingOptions& options);

  // Adds the n ids at `tokens` to what the repetition penalty has seen. May be called again.
  // Throws std::invalid_argument, before it adds any, for an id that is not in 0 .. n_tokens - 1.
  void accept_prompt(const std::int32_t* tokens, std::size_t n);

  // Of what the next call of sample() draws from, whether it fails or not, keeps the ids whose bit
  // is set: i of word i / 32 for the id i, in the n_mask_words() at `mask`, which are copied.
  void allow(const std::uint32_t* mask);
  std::size_t n_mask_words() const { return mask_.size(); }

  // Draws the next token from logits [n_logits] and records it as generated. n_logits may be larger
  // than n_tokens: the rest are padding rows of the vocabulary and never drawn.
  // Throws std::invalid_argument for fewer logits than tokens; std::runtime_error, recording and
  // drawing nothing, for a logit that is NaN or +infinity and where no token is left to draw.
  std::int32_t sample(const float* logits, std::size_t n_logits);

 private:
  void load(const float* logits, Candidates& candidates) const;
  std::size_t draw(Candidates& candidates);
  std::int32_t accept(std::int32_t token);
  void see(std::size_t id);

  std::int32_t n_tokens_;
  SamplingOptions options_;
  std::vector<Step> steps_;
  bool is_plain_greedy_;             // no step but `allow` and `greedy`
  std::vector<std::uint32_t> mask_;  // [ceil(n_tokens / 32)], see allow()
  bool is_masked_ = false;           // the next sample() is
  bool keeps_history_;
  History history_;
  std::mt19937_64 generator_;
};

}  // namespace pythia_rt
