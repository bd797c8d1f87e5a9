// The softmax of logits that are all there.
#pragma once

#include <cstdint>

#include "base/softmax_term.h"
#include "kernels/table.h"

namespace pythia_rt {

// Of logits [n], at `index`. Any thread may ask.
SoftmaxTerm softmax(const KernelTable& kernels, const float* logits, int64_t n, int64_t index);

}  // namespace pythia_rt
