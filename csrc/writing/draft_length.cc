#include "writing/draft_length.h"

#include <algorithm>

namespace pythia_rt {

namespace {

// As long as nothing is known: little is lost where nothing is accepted.
constexpr int64_t kFirstTries = 2, kFirstLength = 2;
constexpr int64_t kMostPatience = 256;
constexpr double kFollow = 0.2;
// Less gain than this is not worth it: times are known no better.
constexpr double kLeastGain = 1.03;

double expected_tokens(double accepted, int64_t length) {
  double sum = 1, power = 1;
  for (int64_t i = 0; i < length; ++i) sum += power *= accepted;
  return sum;
}

}  // namespace

int64_t DraftLength::next(const Pace& pace, int64_t n_rows, double draft_seconds, int64_t most) {
  most = std::min(most, kLongest);
  if (most < 1) return 0;
  if (pause_ > 0) {
    --pause_;
    return 0;
  }
  if (n_tried_ < kFirstTries) return std::min(most, kFirstLength);
  const double alone = pace.seconds(n_rows);
  int64_t best = 0;
  double best_gain = kLeastGain;
  for (int64_t length = 1; length <= most; ++length) {
    const double seconds =
        pace.seconds(n_rows + length) + static_cast<double>(length) * draft_seconds;
    const double gain = seconds > 0 ? expected_tokens(accepted_, length) * alone / seconds : 0;
    if (gain > best_gain) {
      best = length;
      best_gain = gain;
    }
  }
  if (best == 0) {
    pause_ = patience_;
    patience_ = std::min(2 * patience_, kMostPatience);
    return 1;
  }
  return best;
}

void DraftLength::note(int64_t n_proposed, int64_t n_accepted) {
  if (n_proposed == 0) return;
  ++n_tried_;
  for (int64_t i = 0; i < n_accepted; ++i) accepted_ += kFollow * (1 - accepted_);
  if (n_accepted < n_proposed) accepted_ -= kFollow * accepted_;
  if (n_accepted > 0) patience_ = 8;
}

}  // namespace pythia_rt
