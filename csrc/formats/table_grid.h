// The grid of a format of 4 bits whose levels stand in a table of 16 rising values, stored 64
// larger, in 0..127: AVX2's 16-bit sum of two products, at most 2 * 127 * 127, can't saturate.
#pragma once

#include <array>

#include "formats/narrow.h"

namespace pythia_rt {

template <const uint8_t (&kLevels)[16]>
struct TableGrid {
  static constexpr int kBits = 4;
  static constexpr int kOffset = GroupLayout<kBits>::kOffset;
  static constexpr const uint8_t* kTable = kLevels;

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

}  // namespace pythia_rt
