// Cosines and sines of the rotary embedding for every position.
#pragma once

#include <cstdint>
#include <vector>

#include "model/spec.h"

namespace pythia_rt {

// Angles as transformers computes them (modeling_gpt_neox.py): the inverse frequency
// base^(-2i / rotary_dim) and its product with the position are rounded to f32; the cosine and
// sine of that angle are then rounded from f64, so they are the same on every machine.
struct RopeTable {
  explicit RopeTable(const Spec& spec);

  const float* cosines(int64_t position) const { return cosines_.data() + position * half_; }
  const float* sines(int64_t position) const { return sines_.data() + position * half_; }

 private:
  int64_t half_;
  std::vector<float> cosines_;  // [max_positions][rotary_dim / 2]
  std::vector<float> sines_;    // [max_positions][rotary_dim / 2]
};

}  // namespace pythia_rt
