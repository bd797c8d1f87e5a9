#include "sampling/steps.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "sampling/keep_mass.h"
#include "sampling/portable_math.h"

namespace pythia_rt {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

bool more_likely(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// Puts the candidates that `before` ranks first into [first, middle), sorted. `before` is a total
// order, so the result is unique, whatever algorithm found it.
template <class Before>
void sort_first(Candidate* first, Candidate* middle, Candidate* last, Before before) {
  // A heap of the best is passed over quickly by the rest, as long as it is small.
  constexpr std::ptrdiff_t kLargestHeap = 512;
  if (middle - first <= kLargestHeap) {
    std::partial_sort(first, middle, last, before);
  } else {
    if (middle != last) std::nth_element(first, middle, last, before);
    std::sort(first, middle, before);
  }
}

// CTRL (Keskar et al. 2019, arXiv:1909.05858, section 4.1), with transformers' treatment of
// negative logits, which a division would make likelier.
void repetition_penalty(const SamplingOptions& options, const History& history,
                        Candidates& candidates) {
  for (std::int32_t id : history.seen) {
    double& logit = candidates.begin()[id].logit;
    logit = logit > 0.0 ? logit / options.repetition_penalty : logit * options.repetition_penalty;
  }
}

// OpenAI API reference, "presence_penalty": once for each id that was generated at all.
void presence_penalty(const SamplingOptions& options, const History& history,
                      Candidates& candidates) {
  for (std::int32_t id : history.seen) {
    const auto index = static_cast<std::size_t>(id);
    if (history.generated[index] > 0) candidates.entries[index].logit -= options.presence_penalty;
  }
}

// OpenAI API reference, "frequency_penalty": once for each time that an id was generated.
void frequency_penalty(const SamplingOptions& options, const History& history,
                       Candidates& candidates) {
  for (std::int32_t id : history.seen) {
    const auto index = static_cast<std::size_t>(id);
    candidates.entries[index].logit -= options.frequency_penalty * history.generated[index];
  }
}

// OpenAI API reference, "logit_bias".
void logit_bias(const SamplingOptions& options, const History&, Candidates& candidates) {
  for (const auto& [id, bias] : options.logit_bias) {
    candidates.begin()[id].logit += static_cast<double>(bias);
  }
  if (largest_logit(candidates) == -kInfinity) {
    throw_failed("logit_bias bans every token that the model allows");
  }
}

// What Sampler::allow was told: a logit of -infinity for all others.
void allow(const SamplingOptions&, const History&, Candidates& candidates) {
  if (candidates.mask == nullptr) return;
  for (std::size_t i = 0; i < candidates.size; ++i) {
    const bool is_allowed = (candidates.mask[i / 32] >> (i % 32) & 1) != 0;
    candidates.entries[i].logit = is_allowed ? candidates.entries[i].logit : -kInfinity;
  }
  if (largest_logit(candidates) == -kInfinity) {
    throw_failed("the mask allows no token that the model allows, so no token is left");
  }
}

// Temperature 0: the likeliest candidate alone; of equals the first, which has the lowest id.
void greedy(const SamplingOptions&, const History&, Candidates& candidates) {
  const double largest = largest_logit(candidates);
  *candidates.begin() = *std::find_if(candidates.begin(), candidates.end(),
                                      [=](const Candidate& c) { return c.logit == largest; });
  candidates.size = 1;
}

// Ackley, Hinton and Sejnowski 1985, "A learning algorithm for Boltzmann machines". The largest
// logit becomes 0, so that the smallest temperature cannot overflow it.
void temperature(const SamplingOptions& options, const History&, Candidates& candidates) {
  const double largest = largest_logit(candidates);
  for (Candidate& candidate : candidates) {
    candidate.logit = (candidate.logit - largest) / options.temperature;
  }
}

// Fan, Lewis and Dauphin 2018, arXiv:1805.04833, section 5: the k likeliest.
void top_k(const SamplingOptions& options, const History&, Candidates& candidates) {
  if (static_cast<std::uint64_t>(options.top_k) >= candidates.size) return;
  const auto k = static_cast<std::size_t>(options.top_k);
  sort_first(candidates.begin(), candidates.begin() + k, candidates.end(), more_likely);
  candidates.size = k;
}

// Holtzman et al. 2019, arXiv:1904.09751, section 3.1: the smallest set of the likeliest whose
// probability reaches p, the candidate that crosses p included.
void top_p(const SamplingOptions& options, const History&, Candidates& candidates) {
  const double largest = largest_logit(candidates);
  const auto distance = [=](const Candidate& c) { return largest - c.logit; };
  keep_mass(candidates, options.top_p, distance, more_likely);
}

// Nguyen et al. 2024, arXiv:2407.01082: those at least min_p times as likely as the likeliest.
// Compared as logarithms, which spares the others their exponential.
void min_p(const SamplingOptions& options, const History&, Candidates& candidates) {
  const double lowest = largest_logit(candidates) + portable_log(options.min_p);
  Candidate* kept = std::remove_if(candidates.begin(), candidates.end(),
                                   [=](const Candidate& c) { return c.logit < lowest; });
  candidates.size = static_cast<std::size_t>(kept - candidates.begin());
}

// Meister et al. 2022, arXiv:2202.00666, section 4: the smallest set, starting with those whose
// information content -ln p is closest to the entropy, whose probability reaches typical_p. Both
// -ln p and the entropy contain ln(sum of weights): it cancels, and what remains is the distance of
// a logit from the expected logit.
void typical_p(const SamplingOptions& options, const History&, Candidates& candidates) {
  const double total = weigh(candidates);
  double expected = 0.0;
  for (std::size_t i = 0; i < candidates.size; ++i) {
    // A weight of 0 may belong to a logit of -infinity, and their product is NaN.
    if (candidates.weights[i] > 0.0) {
      expected += candidates.weights[i] * candidates.entries[i].logit;
    }
  }
  expected /= total;
  const auto distance = [=](const Candidate& c) {
    return c.logit > expected ? c.logit - expected : expected - c.logit;
  };
  const auto closer = [=](const Candidate& a, const Candidate& b) {
    const double distance_a = distance(a), distance_b = distance(b);
    return distance_a != distance_b ? distance_a < distance_b : a.id < b.id;
  };
  keep_mass(candidates, options.typical_p, distance, closer);
}

}  // namespace

double largest_logit(const Candidates& candidates) {
  const Candidate* entries = candidates.entries.data();
  return largest_of(candidates.size, [=](std::size_t i) { return entries[i].logit; });
}

double weigh(Candidates& candidates) {
  const double largest = largest_logit(candidates);
  const Candidate* entries = candidates.entries.data();
  double* weights = candidates.weights.data();
  for (std::size_t i = 0; i < candidates.size; ++i) {
    weights[i] = portable_exp(entries[i].logit - largest);
  }
  double total = 0.0;
  for (std::size_t i = 0; i < candidates.size; ++i) total += weights[i];
  return total;
}

std::vector<Step> active_steps(const SamplingOptions& options) {
  std::vector<Step> steps;
#define PYTHIA_RT_SAMPLING_STEP(name, active, reads_history) \
  if (active) steps.push_back(name);
#include "sampling/steps.inc"
#undef PYTHIA_RT_SAMPLING_STEP
  return steps;
}

bool is_history_read(const SamplingOptions& options) {
  bool is_read = false;
#define PYTHIA_RT_SAMPLING_STEP(name, active, reads_history) is_read |= reads_history && (active);
#include "sampling/steps.inc"
#undef PYTHIA_RT_SAMPLING_STEP
  return is_read;
}

}  // namespace pythia_rt
