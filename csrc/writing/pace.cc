#include "writing/pace.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "writing/seconds.h"

namespace pythia_rt {

namespace {

// A row of a prompt is to take no longer than expected in nearly all passes, not on average: what
// is expected rises fast and falls slowly.
constexpr double kRise = 0.2, kFall = 0.05;

// What running texts bear: so many passes of their own, and what no reader notices.
constexpr double kPassesBetweenTokens = 1.6, kUnnoticed = 0.01;
constexpr int64_t kLeastPromptRows = 4, kFirstPromptRows = 8;

// What another row adds to a pass as long as none was measured, in passes of one row.
constexpr double kRowGuess = 0.1;

}  // namespace

Pace::Pace(std::optional<double> target) : target_(target) {
  if (target && !(*target > 0)) {
    throw_invalid("the time between tokens must be more than 0 seconds, not ", *target);
  }
}

void Pace::note(int64_t n_text_rows, int64_t n_prompt_rows, double seconds) {
  if (n_prompt_rows == 0) {
    follow(seconds_[static_cast<size_t>(std::min(n_text_rows, kCounted))], seconds);
  } else {
    const double of_texts = n_text_rows == 0 ? 0 : this->seconds(n_text_rows);
    const double left = std::max(seconds - of_texts, seconds / 10);
    follow(prompt_row_seconds_, left / static_cast<double>(n_prompt_rows), kRise, kFall);
  }
}

int64_t Pace::prompt_rows(int64_t n_text_rows) const {
  if (n_text_rows == 0 || (target_ && std::isinf(*target_))) return INT64_MAX;
  const double of_texts = seconds(n_text_rows);
  if (prompt_row_seconds_ == 0 || of_texts == 0) return kFirstPromptRows;
  const double target = target_.value_or(std::max(kPassesBetweenTokens * of_texts, kUnnoticed));
  const double rows = (target - of_texts) / prompt_row_seconds_;
  return std::max(kLeastPromptRows, static_cast<int64_t>(std::min(rows, 1e6)));
}

double Pace::seconds(int64_t n_text_rows) const {
  const int64_t wanted = std::clamp<int64_t>(n_text_rows, 1, kCounted);
  int64_t below = wanted, above = wanted;
  while (below > 0 && seconds_[static_cast<size_t>(below)] == 0) --below;
  while (above <= kCounted && seconds_[static_cast<size_t>(above)] == 0) ++above;
  const auto at = [&](int64_t rows) { return seconds_[static_cast<size_t>(rows)]; };
  if (below == wanted) return at(wanted);
  const bool has_above = above <= kCounted;
  if (below == 0) return has_above ? at(above) : 0;
  const auto rows = static_cast<double>(wanted - below);
  if (!has_above) return at(below) * (1 + kRowGuess * rows);
  return at(below) + (at(above) - at(below)) * rows / static_cast<double>(above - below);
}

}  // namespace pythia_rt
