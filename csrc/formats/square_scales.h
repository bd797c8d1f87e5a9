// Scales of 8 bits, for formats below 8 bits per weight.
//
//   scales [row_blocks][groups][16 rows] i8
//   units  [row_blocks] f32
//   scale  = unit * code * |code|, code in [-127, 127]
//
// One unit serves a block of 16 rows. The square law has no exponent to unpack and keeps its steps
// fine where it matters: 1.6 % at the block's largest scale, 5 % at a tenth, 16 % at a hundredth of
// it. Weights are rounded with the scale that is stored, so a coarse scale costs little.
#pragma once

#include <cmath>
#include <cstdint>

#include "formats/matrix.h"

namespace pythia_rt {

struct SquareScales {
  static constexpr int kLargestCode = 127;

  // The unit that gives the largest of `count` scales the largest code.
  static float unit(const float* scales, int64_t count) {
    float largest = 0;
    for (int64_t i = 0; i < count; ++i) largest = std::fmax(largest, std::fabs(scales[i]));
    return largest / (kLargestCode * kLargestCode);
  }

  static int8_t code(float scale, float unit) {
    if (!(unit > 0)) return 0;
    const float root = std::sqrt(std::fabs(scale) / unit);
    const int magnitude = static_cast<int>(std::fmin(root, kLargestCode) + 0.5f);
    return static_cast<int8_t>(scale < 0 ? -magnitude : magnitude);
  }

  static float value(int8_t code, float unit) {
    const auto c = static_cast<float>(code);
    return c * std::fabs(c) * unit;
  }
};

}  // namespace pythia_rt
