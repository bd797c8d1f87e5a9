#include "forward/rope_table.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/rounding.h"

namespace pythia_rt {

RopeTable::RopeTable(Backend& backend, const Spec& spec)
    : backend_(backend), half_(spec.rotary_dim / 2) {
  for (int64_t i = 0; i < half_; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(spec.rotary_dim);
    const auto power = static_cast<float>(std::pow(spec.rope_base, static_cast<double>(exponent)));
    frequencies_.push_back(1.0f / power);
  }
}

void RopeTable::reach(int64_t count) {
  if (count <= count_ || half_ == 0) return;
  constexpr int64_t kAtOnce = 64;  // a device should not wait for a copy at every token
  count = round_up(count, kAtOnce);
  if (count > capacity_) {
    constexpr int64_t kLeast = 1024;
    capacity_ = std::max({kLeast, 2 * capacity_, count});
    buffer_ = backend_.allocate(static_cast<size_t>(2 * capacity_ * half_) * sizeof(float));
    count_ = 0;
  }
  std::vector<float> cosines, sines;
  for (int64_t position = count_; position < count; ++position) {
    for (const float frequency : frequencies_) {
      const float angle = static_cast<float>(position) * frequency;
      cosines.push_back(static_cast<float>(std::cos(static_cast<double>(angle))));
      sines.push_back(static_cast<float>(std::sin(static_cast<double>(angle))));
    }
  }
  const size_t bytes = cosines.size() * sizeof(float);
  for (const auto& [values, offset] :
       {std::pair(&cosines, int64_t{0}), std::pair(&sines, capacity_ * half_)}) {
    float* out = table(offset + count_ * half_);
    backend_.upload(values->data(), bytes, reinterpret_cast<std::byte*>(out));
  }
  count_ = count;
}

}  // namespace pythia_rt
