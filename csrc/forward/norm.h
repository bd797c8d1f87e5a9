#pragma once

#include "backend/backend.h"
#include "model/spec.h"
#include "model/weights.h"

namespace pythia_rt {

inline NormParameters norm_parameters(const Spec& spec, const NormWeights& weights) {
  return {weights.weight, weights.bias, spec.norm_eps};
}

}  // namespace pythia_rt
