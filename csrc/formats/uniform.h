// q5 and q6: whole numbers of 5 and 6 bits, one scale of 8 bits per row and group of 64 columns;
// 5.125 and 6.125 bits per weight.
//
// The grid reaches one step further down than up, and a negative scale turns it round.
#pragma once

#include "formats/narrow.h"

namespace pythia_rt {

template <int kBitsPerCode>
struct UniformGrid {
  static_assert(kBitsPerCode > 4, "4 bits are looked up: table_grid.h");
  static constexpr int kBits = kBitsPerCode;
  static constexpr int kOffset = GroupLayout<kBits>::kOffset;
  static constexpr const uint8_t* kTable = nullptr;

  static constexpr int level(int code) { return code - kOffset; }

  static uint8_t nearest(float value) {
    const float shifted = value + (kOffset + 0.5f);
    const float most = 2.0f * kOffset - 1.0f;
    const float bounded = shifted > 0 ? shifted : 0.0f;
    return static_cast<uint8_t>(bounded < most ? bounded : most);
  }
};

// The finer the grid, the less there is to win by cutting off a group's largest value.
struct Q5Grid : UniformGrid<5> {
  static constexpr const char* kName = "q5";
  static constexpr float kFirstFactor = 0.85f, kLastFactor = 1.05f;
};
struct Q6Grid : UniformGrid<6> {
  static constexpr const char* kName = "q6";
  static constexpr float kFirstFactor = 0.93f, kLastFactor = 1.03f;
};

using Q5 = Narrow<Q5Grid>;
using Q6 = Narrow<Q6Grid>;

}  // namespace pythia_rt
