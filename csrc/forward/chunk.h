// Tokens of one sequence in a pass.
#pragma once

#include <cstdint>

#include "base/softmax_term.h"
#include "cache/kv_cache.h"

namespace pythia_rt {

// A pass appends them to the sequence's cache; of those from first_wanted on something may be
// wanted. All memory is the host's.
struct Chunk {
  KvCache* cache;
  const int32_t* tokens;  // null: a probe says what the layers start with
  int64_t count;
  int64_t first_wanted = 0;
  float* logits = nullptr;       // after each: [count - first_wanted][vocab_size]; null for none
  SoftmaxTerm* terms = nullptr;  // after each, of the next token: [n_terms]
  int64_t n_terms = 0;           // at most count - first_wanted
  int32_t next = 0;              // the token after the last one, where there is a term of it
};

}  // namespace pythia_rt
