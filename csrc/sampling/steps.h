// Sampling is a list of steps over an array of candidates; what they leave is drawn from.
// steps.inc is the list, steps.cc has the functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sampling/options.h"

namespace pythia_rt {

struct Candidate {
  double logit;  // never NaN or +infinity
  std::int32_t id;
};

// The tokens that may still be drawn: first all of them in id order. Every step leaves at least one
// with a finite logit, and an order that does not depend on the C++ library: the former one, or one
// sorted by a rule in which equal candidates stand by id.
struct Candidates {
  std::vector<Candidate> entries;  // [n_tokens] or more, of which the first `size` count
  std::vector<double> weights;     // as many, filled by weigh()
  std::size_t size = 0;
  // [ceil(n_tokens / 32)]: bit i of word i / 32 allows the id i. Null: every id may come.
  const std::uint32_t* mask = nullptr;

  // Room for keep_mass(), taken when it is first called.
  std::vector<std::uint64_t> places, half_sorted;
  std::vector<Candidate> sorted;

  bool allows(std::size_t id) const {
    return mask == nullptr || (mask[id / 32] >> (id % 32) & 1) != 0;
  }

  Candidate* begin() { return entries.data(); }
  Candidate* end() { return entries.data() + size; }
};

// What has been read and written so far; empty where no active step reads it, since thousands of
// texts may wait, each with a sampler of its own.
struct History {
  std::vector<std::int32_t> seen;       // distinct ids of prompt and generated tokens, as they came
  std::vector<bool> is_seen;            // [n_tokens]
  std::vector<std::int32_t> generated;  // [n_tokens], how often each id was generated
};

double largest_logit(const Candidates& candidates);

// Fills weights[i] = e^(logit_i - largest logit), the softmax before its division, and returns
// their sum, added up in the order of the candidates.
double weigh(Candidates& candidates);

using Step = void (*)(const SamplingOptions&, const History&, Candidates&);

// The steps of steps.inc that `options` make active, in the list's order.
std::vector<Step> active_steps(const SamplingOptions& options);

// Whether one of those steps reads the history.
bool is_history_read(const SamplingOptions& options);

}  // namespace pythia_rt
