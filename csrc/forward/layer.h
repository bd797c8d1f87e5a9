// A layer of the transformer.
#pragma once

#include <cstdint>

#include "forward/probe.h"
#include "forward/workspace.h"
#include "model/spec.h"
#include "model/weights.h"

namespace pythia_rt {

// The residual stream x of the stage's pass becomes what the layer makes of it. `index` counts the
// stage's layers: which of its caches is the layer's. `probe` may be null.
void run_layer(const Spec& spec, const LayerWeights& weights, const Workspace& workspace,
               int64_t index, Probe* probe);

}  // namespace pythia_rt
