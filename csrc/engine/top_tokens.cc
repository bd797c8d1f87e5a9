#include "engine/top_tokens.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "engine/log_softmax.h"

namespace pythia_rt {

void top_tokens(const float* logits, int64_t n, SoftmaxTerm term, int64_t count, int32_t* ids,
                float* log_probabilities) {
  // An order needs numbers.
  int64_t n_numbers = 0;
  for (int64_t i = 0; i < n; ++i) n_numbers += logits[i] == logits[i] ? 1 : 0;
  if (n_numbers != n) throw_failed("a logit is not a number");
  const auto likelier = [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  // A heap of the likeliest so far, the least likely of them first: few of the others get into it,
  // and of equals none, since theirs is the higher id.
  std::vector<int32_t> likeliest(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) likeliest[static_cast<size_t>(i)] = static_cast<int32_t>(i);
  std::make_heap(likeliest.begin(), likeliest.end(), likelier);
  float least = count > 0 ? logits[likeliest.front()] : 0.0f;
  for (int64_t i = count; i < n && count > 0; ++i) {
    if (!(logits[i] > least)) continue;
    std::pop_heap(likeliest.begin(), likeliest.end(), likelier);
    likeliest.back() = static_cast<int32_t>(i);
    std::push_heap(likeliest.begin(), likeliest.end(), likelier);
    least = logits[likeliest.front()];
  }
  std::sort_heap(likeliest.begin(), likeliest.end(), likelier);
  for (int64_t i = 0; i < count; ++i) {
    ids[i] = likeliest[static_cast<size_t>(i)];
    term.logit = logits[ids[i]];
    log_probabilities[i] = log_softmax(term);
  }
}

}  // namespace pythia_rt
