// The layers of a model that one device runs.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"

namespace pythia_rt {

// Consecutive layers. The first stage also has the embedding, the last one the head.
struct Stage {
  Backend* backend;
  int64_t first_layer;
  int64_t n_layers;
};
using Stages = std::vector<Stage>;

}  // namespace pythia_rt
