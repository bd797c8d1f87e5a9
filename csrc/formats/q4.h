// q4: 4 bits through a table of 16 values, one scale of 8 bits per row and group of 64 columns;
// 4.125 bits per weight.
//
// The table is finer around zero, where weights are dense, and not symmetric: a negative scale
// turns it round. Its entries are stored 64 larger, in 0..127: AVX2's 16-bit sum of two products,
// at most 2 * 127 * 127, can't saturate.
#pragma once

#include <array>

#include "formats/narrow.h"

namespace pythia_rt {

struct Q4Grid {
  static constexpr const char* kName = "q4";
  static constexpr int kBits = 4;
  static constexpr int kOffset = GroupLayout<kBits>::kOffset;
  // Fitted to trained weights and to normal and Student-t samples, each group scaled as fit_scales
  // does: -63 -45 -35 -27 -20 -14 -9 -4 1 6 12 18 25 33 43 56.
  static constexpr uint8_t kTable[16] = {1,  19, 29, 37, 44, 50, 55,  60,
                                         65, 70, 76, 82, 89, 97, 107, 120};
  static constexpr float kFirstFactor = 0.8f, kLastFactor = 1.05f;

  static constexpr int level(int code) { return kTable[code] - kOffset; }

  // The code whose level is nearest to a value in [-64, 64), in steps of 1/4: nearest[4 * (v +
  // 64)].
  static constexpr int kStepsPerUnit = 4;
  static constexpr std::array<uint8_t, 128 * kStepsPerUnit> nearest_codes() {
    std::array<uint8_t, 128 * kStepsPerUnit> nearest{};
    for (int i = 0; i < 128 * kStepsPerUnit; ++i) {
      int best = 0;
      for (int code = 1; code < 16; ++code) {
        // The middle of step i is (2 i + 1) / 2 steps: compare distances in eighths of a unit.
        const int middle = 2 * i + 1;
        const int distance = middle - 2 * kStepsPerUnit * kTable[code];
        const int least = middle - 2 * kStepsPerUnit * kTable[best];
        if (distance * distance < least * least) best = code;
      }
      nearest[static_cast<size_t>(i)] = static_cast<uint8_t>(best);
    }
    return nearest;
  }

  static uint8_t nearest(float value) {
    static constexpr auto kNearest = nearest_codes();
    const float step = (value + kOffset) * kStepsPerUnit;
    const float bounded = step > 0 ? step : 0.0f;
    const float most = 128.0f * kStepsPerUnit - 1.0f;
    return kNearest[static_cast<size_t>(bounded < most ? bounded : most)];
  }
};

using Q4 = Narrow<Q4Grid>;

}  // namespace pythia_rt
