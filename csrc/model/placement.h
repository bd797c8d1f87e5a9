// Which device runs which layers, and the weights where it reads them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "backend/stage.h"
#include "model/spec.h"
#include "model/weights.h"

namespace pythia_rt {

// The first `device_layers` layers on `device`, the rest on `cpu`; all of them on `cpu` where
// `device` is null. Without `device_layers` it gets all of them. Throws std::invalid_argument out
// of range.
Stages divide_layers(const Spec& spec, Backend* device, Backend& cpu,
                     std::optional<int64_t> device_layers);

// Makes the weights point to where each stage's device reads them. Throws NoRoom, before anything
// is copied, if a device cannot hold its stage and the `workspace_bytes` that it takes beside the
// weights; the sentence says what would fit. Throws std::invalid_argument for heads that a device
// cannot attend with.
void place_weights(const Spec& spec, const Stages& stages, Weights& weights,
                   size_t workspace_bytes);

}  // namespace pythia_rt
