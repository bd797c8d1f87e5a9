// Cosines and sines of the rotary embedding, position by position.
#pragma once

#include <cstdint>
#include <vector>

#include "model/spec.h"

namespace pythia_rt {

// Angles as transformers computes them (modeling_gpt_neox.py): the inverse frequency
// base^(-2i / rotary_dim) and its product with the position are rounded to f32; the cosine and
// sine of that angle are then rounded from f64, so they are the same on every machine.
class RopeTable {
 public:
  explicit RopeTable(const Spec& spec);

  // Fills the table for positions below `count`. It grows as far as a sequence ever got, since a
  // file may claim any context length. Invalidates the pointers below.
  void reach(int64_t count);

  // [positions from `position` on][rotary_dim / 2]
  const float* cosines(int64_t position) const { return cosines_.data() + position * half_; }
  const float* sines(int64_t position) const { return sines_.data() + position * half_; }

 private:
  int64_t half_;                    // rotary_dim / 2
  int64_t count_ = 0;               // positions filled
  std::vector<float> frequencies_;  // [rotary_dim / 2]
  std::vector<float> cosines_;      // [count][rotary_dim / 2]
  std::vector<float> sines_;        // [count][rotary_dim / 2]
};

}  // namespace pythia_rt
