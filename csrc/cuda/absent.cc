// Stands in for the CUDA backend where pythia_rt is built without it.
#include "base/error.h"
#include "cuda/cuda.h"

namespace pythia_rt {

std::string cuda_unavailable() {
  return "this build of pythia_rt has no CUDA backend (docs/cuda.md says how to build it)";
}

std::string cuda_device_name() { throw_failed(cuda_unavailable()); }

std::unique_ptr<Backend> make_cuda_backend() { throw_failed(cuda_unavailable()); }

}  // namespace pythia_rt
