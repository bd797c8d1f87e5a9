// A layer of the transformer.
#pragma once

#include <cstdint>

#include "base/function_ref.h"
#include "forward/stage.h"
#include "model/spec.h"
#include "model/weights.h"

namespace pythia_rt {

// Is told what a matrix is about to be multiplied with.
using InputObserver = FunctionRef<void(const Matrix& matrix, Rows input)>;

// The residual stream x of the stage's pass becomes what the layer makes of it. `index` counts the
// stage's layers: which of its caches is the layer's.
void run_layer(const Spec& spec, const LayerWeights& weights, const Stage& stage, int64_t index,
               InputObserver observe);

}  // namespace pythia_rt
