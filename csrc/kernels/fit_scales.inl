// The search for the scales of a format below 8 bits, when a checkpoint is converted.
#pragma once

#include "kernels/table.h"

namespace pythia_rt::PYTHIA_RT_ISA {

constexpr int kTableLevels = 16;

// The nearest level of a table, found by halving: four steps, each past a number of half-way
// points.
class TableLevels {
 public:
  explicit TableLevels(const FitArguments& arguments) {
    float levels[kTableLevels];
    for (int i = 0; i < kTableLevels; ++i) {
      levels[i] = static_cast<float>(arguments.table[i] - arguments.offset);
    }
    first_ = levels[0];
    last_ = levels[kTableLevels - 1];
    levels_ = load(levels);
    for (int step = 0; step < kSteps; ++step) {
      float boundaries[kTableLevels] = {};
      for (int i = 0; i + width(step) < kTableLevels; ++i) {
        const int level = i + width(step);
        boundaries[i] = (levels[level] + levels[level - 1]) * 0.5f;
      }
      boundaries_[step] = load(boundaries);
    }
  }
  float first() const { return first_; }
  float last() const { return last_; }
  Vec nearest(Vec scaled) const {
    IntVec index = int_zero();
    for (int step = 0; step < kSteps; ++step) {
      index = add_if_less(index, lookup(boundaries_[step], index), scaled, width(step));
    }
    return lookup(levels_, index);
  }

 private:
  static constexpr int kSteps = 4;
  static constexpr int width(int step) { return kTableLevels / 2 >> step; }

  float first_, last_;
  Vec levels_;
  Vec boundaries_[kSteps];  // of each index, half way below the level that lies `width` further
};

// The nearest whole number from -offset to offset - 1.
class UniformLevels {
 public:
  explicit UniformLevels(const FitArguments& arguments)
      : first_(static_cast<float>(-arguments.offset)),
        last_(static_cast<float>(arguments.offset - 1)) {}
  float first() const { return first_; }
  float last() const { return last_; }
  Vec nearest(Vec scaled) const {
    return to_float(round_to_int(max(min(scaled, broadcast(last_)), broadcast(first_))));
  }

 private:
  float first_, last_;
};

// Each lane is one row of a block: nothing is added across lanes. Of candidate scales that map the
// row's largest value, some factor over or under, to either end of the grid, the one wins whose
// levels leave the least squared error once the best scale for them, dot / squares, is put in. That
// error is sum(w x^2) - gain with gain = dot^2 / squares (least squares with one unknown).
template <typename Levels>
inline void fit_with(const FitArguments& arguments) {
  constexpr int kFactors = 8;
  const Levels levels(arguments);
  const float step = (arguments.last_factor - arguments.first_factor) / (kFactors - 1);

  Vec extreme = zero();  // the value of largest magnitude, with its sign
  for (int64_t i = 0; i < kColumnGroup; ++i) {
    const Vec x = load(arguments.values + i * kRowBlock);
    extreme = select_less(abs(extreme), abs(x), x, extreme);
  }
  // Rows of zeros, and of values whose inverse would be infinite, are divided by one: their levels
  // gain nothing, and their scale stays 0.
  const Vec divisor = select_less(broadcast(1e-30f), abs(extreme), extreme, broadcast(1.0f));
  Vec best_gain = zero();
  Vec best_scale = zero();
  for (int candidate = 0; candidate < 2 * kFactors; ++candidate) {
    const float factor = arguments.first_factor + step * static_cast<float>(candidate / 2);
    const float end = candidate % 2 == 0 ? levels.first() : levels.last();
    const Vec inverse = broadcast(end / factor) / divisor;
    Vec dot = zero();
    Vec squares = zero();
    for (int64_t i = 0; i < kColumnGroup; ++i) {
      const Vec x = load(arguments.values + i * kRowBlock);
      const Vec level = levels.nearest(x * inverse);
      const Vec weighted =
          arguments.importance == nullptr ? level : level * broadcast(arguments.importance[i]);
      dot = fma(x, weighted, dot);
      squares = fma(level, weighted, squares);
    }
    squares = select_less(zero(), squares, squares, broadcast(1.0f));
    const Vec gain = dot * dot / squares;
    best_scale = select_less(best_gain, gain, dot / squares, best_scale);
    best_gain = max(gain, best_gain);
  }
  store(arguments.scales, best_scale);
}

inline void fit_scales(const FitArguments& arguments) {
  if (arguments.table != nullptr) {
    fit_with<TableLevels>(arguments);
  } else {
    fit_with<UniformLevels>(arguments);
  }
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
