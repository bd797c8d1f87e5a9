#include "engine/token_stats.h"

#include <algorithm>

#include "engine/log_softmax.h"
#include "kernels/softmax.h"
#include "sampling/portable_math.h"

namespace pythia_rt {

namespace {

// Of the distribution of logits [n], the largest of which is known: with w = e^(logit - largest),
// ln(sum w) - sum(w (logit - largest)) / sum w.
double entropy_of(const float* logits, int64_t n, double largest) {
  constexpr int64_t kTogether = 512;  // in loops of one kind each, which compilers vectorise
  double total = 0, weighted = 0;
  for (int64_t begin = 0; begin < n; begin += kTogether) {
    const auto count = static_cast<size_t>(std::min(kTogether, n - begin));
    double centred[kTogether], weights[kTogether];
    for (size_t i = 0; i < count; ++i)
      centred[i] = static_cast<double>(logits[i + begin]) - largest;
    for (size_t i = 0; i < count; ++i) weights[i] = portable_exp(centred[i]);
    total += sum_of(count, [&](size_t i) { return weights[i]; });
    weighted += sum_of(count, [&](size_t i) { return weights[i] * centred[i]; });
  }
  return portable_log(total) - weighted / total;
}

}  // namespace

TokenStats token_stats(const KernelTable& kernels, const float* logits, int64_t n, int32_t token) {
  const SoftmaxTerm term = softmax(kernels, logits, n, token);
  int32_t rank = 0;
  for (int64_t i = 0; i < n; ++i) rank += logits[i] > term.logit ? 1 : 0;
  const float* likeliest = std::find(logits, logits + n, term.largest);
  return {log_softmax(term), entropy_of(logits, n, term.largest), rank,
          static_cast<int32_t>(likeliest - logits)};
}

}  // namespace pythia_rt
