// The parts of the extension module, one function each.
#pragma once

#include <pybind11/pybind11.h>

#include <mutex>

#include "bindings/locks.h"
#include "sampling/sampler.h"

namespace pythia_rt {

// A sampler; two Python threads that use it take turns.
struct GuardedSampler {
  // Throws std::runtime_error in a child whose parent was using it when it forked.
  std::unique_lock<ForkSafeMutex> lock() {
    check_not_orphaned(mutex, "sampler");
    return std::unique_lock(mutex);
  }

  Sampler sampler;
  ForkSafeMutex mutex;
};

void bind_machine(pybind11::module_& module);
void bind_formats(pybind11::module_& module);
void bind_sampling(pybind11::module_& module);
void bind_model(pybind11::module_& module);
void bind_calibration(pybind11::module_& module);

}  // namespace pythia_rt
