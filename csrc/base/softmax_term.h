// What a softmax makes of one of its logits.
#pragma once

namespace pythia_rt {

// e^(logit - largest) / sum, where the sum is that of e^(logit - largest) over all logits.
struct SoftmaxTerm {
  float logit;
  float largest;
  float sum;
};

}  // namespace pythia_rt
