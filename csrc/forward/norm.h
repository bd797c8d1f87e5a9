#pragma once

#include <stdexcept>

#include "backend/backend.h"
#include "model/spec.h"
#include "model/weights.h"

namespace pythia_rt {

inline NormParameters norm_parameters(const Spec& spec, const NormWeights& weights) {
  switch (spec.norm) {
    case NormKind::layer:
      return {true, weights.weight, weights.bias, spec.norm_eps};
    case NormKind::rms:
      return {false, weights.weight, nullptr, spec.norm_eps};
  }
  throw std::invalid_argument("there is no such norm");
}

}  // namespace pythia_rt
