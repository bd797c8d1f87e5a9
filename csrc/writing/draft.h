// Guesses what comes next in a text, so that one pass can check several tokens.
#pragma once

#include <cstdint>

#include "base/function_ref.h"

namespace pythia_rt {

// Whatever it guesses, the text stays the same: a guess is taken only where the sampler has drawn
// that token. One text each.
class Draft {
 public:
  virtual ~Draft() = default;

  // The text has become longer by such a token.
  virtual void extend(int32_t token) = 0;

  // At most `count` tokens that may follow, into out; returns how many. `interrupt` may throw.
  virtual int64_t propose(int64_t count, int32_t* out, FunctionRef<void()> interrupt) = 0;

  // Whether proposing takes no time; else what a token takes, as far as is known.
  virtual bool is_free() const = 0;
  virtual double seconds() const = 0;
};

}  // namespace pythia_rt
