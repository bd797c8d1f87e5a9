// What a stage has on its device beside the weights of its layers.
#pragma once

#include "backend/stage.h"
#include "forward/activations.h"
#include "forward/rope_table.h"
#include "model/spec.h"
#include "model/weights.h"

namespace pythia_rt {

struct Workspace {
  Workspace(const Spec& spec, const Weights& weights, const Stage& stage)
      : stage(stage),
        activations(*stage.backend, spec),
        rope(*stage.backend, spec, weights.rope_frequencies) {
    if (weights.score_bias != nullptr) {
      score_bias = static_cast<const float*>(
          stage.backend->hold(weights.score_bias, score_bias_bytes(spec)));
    }
  }

  // What it takes at most, but for the angles of positions to come.
  static size_t bytes(const Spec& spec) {
    return Activations::bytes(spec) + (spec.score_bias ? score_bias_bytes(spec) : 0);
  }

  Stage stage;
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
