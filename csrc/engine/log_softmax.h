// The logarithm of a softmax.
#pragma once

#include "base/softmax_term.h"

namespace pythia_rt {

// ln of what a softmax makes of a logit, all raw logits counted.
float log_softmax(const SoftmaxTerm& term);

}  // namespace pythia_rt
