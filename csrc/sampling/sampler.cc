#include "sampling/sampler.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>

#include "base/error.h"
#include "sampling/portable_math.h"

namespace pythia_rt {
namespace {

struct Largest {
  float logit;
  std::size_t id;  // the first of equals
};

// The largest of n logits. Throws where they have no softmax.
Largest check_logits(const float* logits, std::size_t n) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  // Compilers vectorise maxima that stand in an array, and neither a single one nor a few. Each is
  // of the logits whose index has the same remainder.
  constexpr std::size_t kLanes = 256;
  float lanes[kLanes];
  std::fill_n(lanes, kLanes, -kInfinity);
  std::uint32_t n_usable = 0;
  for (std::size_t begin = 0; begin < n; begin += kLanes) {
    const float* row = logits + begin;
    const std::size_t count = std::min(kLanes, n - begin);
    for (std::size_t i = 0; i < count; ++i) {
      lanes[i] = lanes[i] < row[i] ? row[i] : lanes[i];
      n_usable += row[i] < kInfinity;  // false for NaN as well
    }
  }
  if (n_usable != n) {
    const auto is_usable = [](float logit) { return logit < kInfinity; };
    const auto id = std::find_if_not(logits, logits + n, is_usable) - logits;
    throw_failed("the logit of token ", id, " is ",
                 logits[id] == kInfinity ? "plus infinity" : "not a number",
                 ", so no token can be sampled");
  }
  Largest largest{*std::max_element(lanes, lanes + kLanes), n};
  if (largest.logit == -kInfinity) {
    throw_failed("all logits are minus infinity, so no token can be sampled");
  }
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    if (lanes[lane] != largest.logit) continue;
    std::size_t id = lane;
    while (logits[id] != largest.logit) id += kLanes;
    largest.id = std::min(largest.id, id);
  }
  return largest;
}

Candidates& candidates_of_this_thread(std::size_t n) {
  thread_local Candidates candidates;
  if (candidates.entries.size() < n) {
    candidates.entries.resize(n);
    candidates.weights.resize(n);
  }
  return candidates;
}

}  // namespace

Sampler::Sampler(std::int32_t n_tokens, const SamplingOptions& options)
    : n_tokens_(n_tokens), options_(options), generator_(options.seed) {
  check_options(options_, n_tokens_);
  const auto n = static_cast<std::size_t>(n_tokens_);
  steps_ = active_steps(options_);
  is_plain_greedy_ = options_.temperature == 0.0 && steps_.size() == 2;  // allow, greedy
  keeps_history_ = is_history_read(options_);
  if (keeps_history_) {
    history_.seen.reserve(n);
    history_.is_seen.assign(n, false);
    history_.generated.assign(n, 0);
  }
  mask_.resize((n + 31) / 32);
}

void Sampler::accept_prompt(const std::int32_t* tokens, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    if (tokens[i] < 0 || tokens[i] >= n_tokens_) {
      throw_invalid("token ", i, " of the prompt must be an id between 0 and ", n_tokens_ - 1,
                    ", not ", tokens[i]);
    }
  }
  if (!keeps_history_) return;
  for (std::size_t i = 0; i < n; ++i) see(static_cast<std::size_t>(tokens[i]));
}

void Sampler::allow(const std::uint32_t* mask) {
  std::copy_n(mask, n_mask_words(), mask_.begin());
  is_masked_ = true;
}

std::int32_t Sampler::sample(const float* logits, std::size_t n_logits) {
  const bool is_masked = std::exchange(is_masked_, false);
  if (n_logits < static_cast<std::size_t>(n_tokens_)) {
    throw_invalid("sampling needs a logit for each of the ", n_tokens_, " tokens, not ", n_logits);
  }
  Candidates& candidates = candidates_of_this_thread(static_cast<std::size_t>(n_tokens_));
  candidates.mask = is_masked ? mask_.data() : nullptr;
  if (is_plain_greedy_) {
    const auto n = static_cast<std::size_t>(n_tokens_);
    const std::size_t likeliest = check_logits(logits, n).id;
    // Then `greedy` comes to this, without a list of candidates.
    if (candidates.allows(likeliest)) {
      generator_();  // as in draw()
      return accept(static_cast<std::int32_t>(likeliest));
    }
  }
  load(logits, candidates);
  for (Step step : steps_) step(options_, history_, candidates);
  return accept(candidates.entries[draw(candidates)].id);
}

std::int32_t Sampler::accept(std::int32_t token) {
  if (keeps_history_) {
    const auto id = static_cast<std::size_t>(token);
    see(id);
    ++history_.generated[id];
  }
  return token;
}

void Sampler::load(const float* logits, Candidates& candidates) const {
  candidates.size = static_cast<std::size_t>(n_tokens_);
  check_logits(logits, candidates.size);
  for (std::size_t i = 0; i < candidates.size; ++i) {
    candidates.entries[i] = {static_cast<double>(logits[i]), static_cast<std::int32_t>(i)};
  }
}

// Index of the candidate in whose share of the total weight a uniform number falls. Each token
// takes one number of the generator, greedy ones too.
std::size_t Sampler::draw(Candidates& candidates) {
  const double uniform = static_cast<double>(generator_() >> 11) * 0x1.0p-53;  // [0, 1)
  const double target = uniform * weigh(candidates);
  // The sum repeats that of weigh(), and uniform * total < total: so it passes the target, and
  // where it does the weight is not 0.
  double sum = candidates.weights[0];
  std::size_t index = 0;
  while (sum <= target) sum += candidates.weights[++index];
  return index;
}

void Sampler::see(std::size_t id) {
  if (history_.is_seen[id]) return;
  history_.is_seen[id] = true;
  history_.seen.push_back(static_cast<std::int32_t>(id));
}

}  // namespace pythia_rt
