#include "model/rope_table.h"

#include <cmath>

namespace pythia_rt {

RopeTable::RopeTable(const Spec& spec) : half_(spec.rotary_dim / 2) {
  const auto size = static_cast<size_t>(spec.max_positions * half_);
  cosines_.resize(size);
  sines_.resize(size);
  for (int64_t i = 0; i < half_; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(spec.rotary_dim);
    const auto power = static_cast<float>(std::pow(spec.rope_base, static_cast<double>(exponent)));
    const float frequency = 1.0f / power;
    for (int64_t position = 0; position < spec.max_positions; ++position) {
      const float angle = static_cast<float>(position) * frequency;
      const auto index = static_cast<size_t>(position * half_ + i);
      cosines_[index] = static_cast<float>(std::cos(static_cast<double>(angle)));
      sines_[index] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
}

}  // namespace pythia_rt
