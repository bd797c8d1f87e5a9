// The parts of the extension module, one function each.
#pragma once

#include <pybind11/pybind11.h>

#include <mutex>

#include "sampling/sampler.h"

namespace pythia_rt {

// A sampler that two Python threads cannot use at the same time.
struct GuardedSampler {
  Sampler sampler;
  std::mutex mutex;
};

void bind_machine(pybind11::module_& module);
void bind_formats(pybind11::module_& module);
void bind_sampling(pybind11::module_& module);
void bind_model(pybind11::module_& module);
void bind_calibration(pybind11::module_& module);

}  // namespace pythia_rt
