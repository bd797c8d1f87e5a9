// Tokens of one sequence in a pass.
#pragma once

#include <cstdint>

#include "base/softmax_term.h"
#include "model/kv_cache.h"

namespace pythia_rt {

// Tokens to append to one sequence, and where its logits go.
struct Chunk {
  KvCache* cache;
  const int32_t* tokens;
  int64_t count;
  float* logits;                 // null for none, else [count or 1][vocab_size] on the host
  bool all_logits;               // of every token, not of the last alone
  SoftmaxTerm* terms = nullptr;  // [n_terms] on the host: of tokens[1 ..], each after those before
  int64_t n_terms = 0;           // count or less; tokens[n_terms] must be there
};

}  // namespace pythia_rt
