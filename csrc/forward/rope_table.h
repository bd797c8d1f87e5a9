// Cosines and sines of the rotary embedding, position by position.
#pragma once

#include <cstdint>
#include <memory>

#include "backend/backend.h"
#include "model/spec.h"

namespace pythia_rt {

// Angles as transformers computes them (modeling_gpt_neox.py, say): a frequency and its product
// with the position are rounded to f32; the cosine and sine of that angle are then rounded from
// f64, so they are the same on every machine, and multiplied by the spec's rope_factor.
class RopeTable {
 public:
  // `frequencies` [rotary_dim / 2], which must stay there: the angles of one position's step.
  RopeTable(Backend& backend, const Spec& spec, const float* frequencies);

  // Fills the table for positions below `count`. It grows as far as a sequence ever got, since a
  // file may claim any context length. Invalidates the pointers below.
  void reach(int64_t count);

  // [positions][rotary_dim / 2], memory of the device
  const float* cosines() const { return table(0); }
  const float* sines() const { return table(capacity_ * half_); }

 private:
  float* table(int64_t offset) const {
    return buffer_ ? reinterpret_cast<float*>(buffer_->data()) + offset : nullptr;
  }

  Backend& backend_;
  int64_t half_;  // rotary_dim / 2; 0: no table, since nothing reads it
  float factor_;
  const float* frequencies_;
  int64_t count_ = 0;     // positions filled
  int64_t capacity_ = 0;  // positions that the buffer has room for
  std::unique_ptr<DeviceBuffer> buffer_;
};

}  // namespace pythia_rt
