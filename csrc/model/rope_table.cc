#include "model/rope_table.h"

#include <cmath>

namespace pythia_rt {

RopeTable::RopeTable(const Spec& spec) : half_(spec.rotary_dim / 2) {
  for (int64_t i = 0; i < half_; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(spec.rotary_dim);
    const auto power = static_cast<float>(std::pow(spec.rope_base, static_cast<double>(exponent)));
    frequencies_.push_back(1.0f / power);
  }
}

void RopeTable::reach(int64_t count) {
  for (; count_ < count; ++count_) {
    for (const float frequency : frequencies_) {
      const float angle = static_cast<float>(count_) * frequency;
      cosines_.push_back(static_cast<float>(std::cos(static_cast<double>(angle))));
      sines_.push_back(static_cast<float>(std::sin(static_cast<double>(angle))));
    }
  }
}

}  // namespace pythia_rt
