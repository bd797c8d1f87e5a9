// The parts of the extension module, one function each.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <mutex>

#include "backend/backend.h"
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
void bind_spec(pybind11::module_& module);
void bind_sampling(pybind11::module_& module);

// The CPU as a backend, for 0 threads with as many as default_threads().
std::unique_ptr<Backend> make_cpu(int threads);

// The models' CPU is made by `make`.
void bind_model(pybind11::module_& module, std::unique_ptr<Backend> (*make)(int) = make_cpu);

// Sequences of these models.
void bind_session(pybind11::module_& module);

// Passes that sequences share.
void bind_passes(pybind11::module_& module);

// What rows of logits say of tokens, and how far they are apart.
void bind_distributions(pybind11::module_& module);

// Such passes, looked into and changed.
void bind_edits(pybind11::module_& module);
void bind_run(pybind11::module_& module);

// Texts that are written in such passes.
void bind_writing(pybind11::module_& module);

// What sequences have read, for others.
void bind_prefixes(pybind11::module_& module);

void bind_calibration(pybind11::module_& module);

}  // namespace pythia_rt
