// Times that passes take, as measured and as expected.
#pragma once

#include <algorithm>
#include <chrono>

namespace pythia_rt {

// Of a clock that only goes forward.
inline double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// How fast an expected time follows the last one measured.
constexpr double kFollow = 0.2;

// Notes a time in what is expected, 0 before the first. One that was far too long, because
// something else was running, is believed in part.
inline void follow(double& expected, double seconds, double rise = kFollow, double fall = kFollow) {
  constexpr double kBelieved = 2.0;
  if (expected == 0) {
    expected = seconds;
  } else {
    const double change = std::min(seconds, kBelieved * expected) - expected;
    expected += (change > 0 ? rise : fall) * change;
  }
}

}  // namespace pythia_rt
