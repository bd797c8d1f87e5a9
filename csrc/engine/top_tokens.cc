#include "engine/top_tokens.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "engine/log_softmax.h"
#include "kernels/dispatch.h"
#include "kernels/softmax.h"

namespace pythia_rt {

void top_tokens(const float* logits, int64_t n, int64_t count, int32_t* ids,
                float* log_probabilities) {
  // An order needs numbers.
  if (std::any_of(logits, logits + n, [](float logit) { return std::isnan(logit); })) {
    throw_failed("a logit is not a number");
  }
  std::vector<int32_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  SoftmaxTerm term = softmax(selected_kernels(), logits, n, order.front());
  for (int64_t i = 0; i < count; ++i) {
    ids[i] = order[static_cast<size_t>(i)];
    term.logit = logits[ids[i]];
    log_probabilities[i] = log_softmax(term);
  }
}

}  // namespace pythia_rt
