// Integer rounding used for padded shapes. Values are non-negative.
#pragma once

#include <cstdint>

namespace pythia_rt {

constexpr int64_t divide_up(int64_t value, int64_t step) { return (value + step - 1) / step; }
constexpr int64_t round_up(int64_t value, int64_t step) { return divide_up(value, step) * step; }

}  // namespace pythia_rt
