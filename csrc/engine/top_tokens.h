// The likeliest tokens after a row of logits.
#pragma once

#include <cstdint>

#include "base/softmax_term.h"

namespace pythia_rt {

// The `count` likeliest of logits [n], the likeliest first and of equals the lower id: their ids
// [count] and log-probabilities [count], all raw logits counted: `term` is the logits' softmax, at
// any of them. Throws std::runtime_error for a logit that is not a number.
void top_tokens(const float* logits, int64_t n, SoftmaxTerm term, int64_t count, int32_t* ids,
                float* log_probabilities);

}  // namespace pythia_rt
