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
        rope(*part.backend, spec, weights.rope_frequencies) {}

  Part part;
  Activations activations;
  RopeTable rope;
  Batch batch;  // the pass at hand
};

}  // namespace pythia_rt
