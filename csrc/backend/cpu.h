// The CPU as a backend: divides each operation over the thread pool; no arithmetic of its own.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "kernels/table.h"

namespace pythia_rt {

// Throws std::invalid_argument for a number of threads that cannot be.
std::unique_ptr<Backend> make_cpu_backend(const KernelTable& kernels, int n_threads);

}  // namespace pythia_rt
