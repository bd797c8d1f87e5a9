// Which device runs which layers, and the weights where it reads them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "backend/backend.h"
#include "model/spec.h"
#include "model/weights.h"

namespace pythia_rt {

// Consecutive layers that one device runs. The first part also has the embedding, the last one the
// head.
struct Part {
  Backend* backend;
  int64_t first_layer;
  int64_t n_layers;
};
using Parts = std::vector<Part>;

// The first `device_layers` layers on `device`, the rest on `cpu`; all of them on `cpu` where
// `device` is null. Without `device_layers` it gets all of them. Throws std::invalid_argument out
// of range.
Parts divide_layers(const Spec& spec, Backend* device, Backend& cpu,
                    std::optional<int64_t> device_layers);

// Makes the weights point to where each part's device reads them. Throws NoRoom, before anything is
// copied, if a device cannot hold its part and the `stage_bytes` that it takes beside the weights;
// the sentence says what would fit. Throws std::invalid_argument for heads that a device cannot
// attend with.
void place_weights(const Spec& spec, const Parts& parts, Weights& weights, size_t stage_bytes);

}  // namespace pythia_rt
