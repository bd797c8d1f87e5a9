// The search for the scales of a 4-bit table format, when a checkpoint is converted.
#pragma once

#include "kernels/table.h"

namespace pythia_rt::PYTHIA_RT_ISA {

// Each lane is one row of a block: nothing is added across lanes. Of candidate scales that map the
// row's largest value, f times over or under, to either end of the table, the one wins whose codes
// leave the least squared error once the best scale for those codes, dot / squares, is put in.
// That error is sum(x^2) - gain with gain = dot^2 / squares (least squares with one unknown).
inline void fit_scales(const FitArguments& arguments) {
  constexpr int kFactors = 8;
  constexpr float kFirstFactor = 0.8f, kFactorStep = 0.25f / 7;
  Vec steps[15];       // between neighbouring levels of the table
  Vec boundaries[15];  // half way between them
  float levels[16];
  for (int i = 0; i < 16; ++i) levels[i] = static_cast<float>(arguments.table[i]) - 64.0f;
  for (int i = 0; i < 15; ++i) {
    steps[i] = broadcast(levels[i + 1] - levels[i]);
    boundaries[i] = broadcast((levels[i + 1] + levels[i]) * 0.5f);
  }

  Vec extreme = zero();  // the value of largest magnitude, with its sign
  for (int64_t i = 0; i < kColumnGroup; ++i) {
    const Vec x = load(arguments.values + i * kRowBlock);
    extreme = select_less(abs(extreme), abs(x), x, extreme);
  }
  Vec best_gain = zero();
  Vec best_scale = zero();
  for (int candidate = 0; candidate < 2 * kFactors; ++candidate) {
    const float factor = kFirstFactor + kFactorStep * static_cast<float>(candidate / 2);
    const float end = levels[candidate % 2 == 0 ? 0 : 15];
    // A lane of zeros gets an infinite inverse and no gain, since 0 * infinity compares with
    // nothing.
    const Vec inverse = broadcast(end / factor) / extreme;
    Vec dot = zero();
    Vec squares = zero();
    for (int64_t i = 0; i < kColumnGroup; ++i) {
      const Vec x = load(arguments.values + i * kRowBlock);
      const Vec scaled = x * inverse;
      Vec level = broadcast(levels[0]);
      for (int k = 0; k < 15; ++k) {
        level = level + select_less(boundaries[k], scaled, steps[k], zero());
      }
      dot = fma(x, level, dot);
      squares = fma(level, level, squares);
    }
    const Vec gain = dot * dot / squares;
    best_scale = select_less(best_gain, gain, dot / squares, best_scale);
    best_gain = max(gain, best_gain);
  }
  store(arguments.scales, best_scale);
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
