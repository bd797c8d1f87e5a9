// How many tokens a text's draft is asked for.
#pragma once

#include <cstdint>

#include "writing/pace.h"

namespace pythia_rt {

// As many as make the tokens come fastest, by what was accepted lately and what rows cost: with a
// probability a that a guess is accepted, k of them give (1 - a^(k+1)) / (1 - a) tokens a pass
// (Leviathan, Kalman and Matias, "Fast inference from transformers via speculative decoding", 2023,
// equation 1). Where none pays, one is tried now and then, ever more seldom.
class DraftLength {
 public:
  static constexpr int64_t kLongest = 12;

  // At most `most`, for a pass of n_rows without them.
  int64_t next(const Pace& pace, int64_t n_rows, double draft_seconds, int64_t most);

  // Of n guesses the first n_accepted were right.
  void note(int64_t n_proposed, int64_t n_accepted);

 private:
  double accepted_ = 0.6;  // how probably a guess is right
  int64_t n_tried_ = 0;
  int64_t pause_ = 0;     // tokens until one is tried
  int64_t patience_ = 8;  // the pause after the next failure
};

}  // namespace pythia_rt
