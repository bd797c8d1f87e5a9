// What a device has for its part of a pass.
#pragma once

#include "backend/backend.h"
#include "forward/activations.h"
#include "forward/rope_table.h"
#include "model/placement.h"
#include "model/spec.h"
#include "model/weights.h"

namespace pythia_rt {

struct Stage {
  Stage(const Spec& spec, const Weights& weights, const Part& part)
      : part(part),
        activations(*part.backend, spec),
        rope(*part.backend, spec, weights.rope_frequencies) {
    if (weights.score_bias != nullptr) {
      score_bias =
          static_cast<const float*>(part.backend->hold(weights.score_bias, score_bias_bytes(spec)));
    }
  }

  // What it takes at first, beside the weights that its layers have.
  static size_t bytes(const Spec& spec) {
    return Activations::bytes(spec) + (spec.score_bias ? score_bias_bytes(spec) : 0);
  }

  Part part;
  Activations activations;
  RopeTable rope;
  const float* score_bias = nullptr;  // [n_heads][max_positions], memory of the device; or null
  Batch batch;                        // the pass at hand

 private:
  static size_t score_bias_bytes(const Spec& spec) {
    return static_cast<size_t>(spec.n_heads * spec.max_positions) * sizeof(float);
  }
};

}  // namespace pythia_rt
