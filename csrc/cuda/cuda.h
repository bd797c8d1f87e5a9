// The CUDA backend, for whoever makes models.
#pragma once

#include <memory>
#include <string>

#include "backend/backend.h"

namespace pythia_rt {

// Why models cannot run on a CUDA device here, as a sentence without its end; empty if they can.
std::string cuda_unavailable();

// The device's name, as the driver gives it; throws as make_cuda_backend does.
std::string cuda_device_name();

// A backend on the first device that CUDA_VISIBLE_DEVICES leaves. Throws std::runtime_error with
// the sentence of cuda_unavailable() where there is none.
std::unique_ptr<Backend> make_cuda_backend();

}  // namespace pythia_rt
