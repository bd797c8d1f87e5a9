#include "forward/rope_table.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "base/rounding.h"

namespace pythia_rt {

RopeTable::RopeTable(Backend& backend, const Spec& spec, const float* frequencies)
    : backend_(backend),
      half_(spec.rotary_dim / 2),
      factor_(spec.rope_factor),
      frequencies_(frequencies) {}

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
    for (int64_t i = 0; i < half_; ++i) {
      const float angle = static_cast<float>(position) * frequencies_[i];
      cosines.push_back(static_cast<float>(std::cos(static_cast<double>(angle))) * factor_);
      sines.push_back(static_cast<float>(std::sin(static_cast<double>(angle))) * factor_);
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
