// What somebody outside the core wants to say about each token of a text.
#pragma once

#include <cstdint>

namespace pythia_rt {

// Called between the rows of a pass, in the order of the tokens. What it throws ends the text.
class Hook {
 public:
  virtual ~Hook() = default;

  virtual bool masks() const = 0;    // whether allowed() is asked
  virtual bool changes() const = 0;  // whether change() is asked

  // Which ids may come next: bit i % 32 of word i / 32 for id i. Null for all of them. Holds until
  // the next call.
  virtual const uint32_t* allowed() = 0;
  // What the next token is sampled from instead of these logits [n], into out [n].
  virtual void change(const float* logits, int64_t n, float* out) = 0;
  // The token that was sampled.
  virtual void accept(int32_t token) = 0;
};

}  // namespace pythia_rt
