// A model that can be run.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/fork_safe_mutex.h"
#include "base/function_ref.h"
#include "forward/decoder.h"
#include "model/placement.h"
#include "model/spec.h"
#include "model/weights.h"

namespace pythia_rt {

// Weights and the devices that run them. Constant once built: any number of sequences on any number
// of threads may share it; their passes take turns.
class Model {
 public:
  // `device`, if there is one, runs the first `device_layers` layers, or all of them, and
  // `cpu` the others. Throws std::invalid_argument for tensors that the spec does not ask for,
  // NoRoom where the device has none.
  Model(const Spec& spec, const std::map<std::string, Format>& formats,
        const std::map<std::string, Blob>& tensors, std::unique_ptr<Backend> cpu,
        std::unique_ptr<Backend> device = nullptr,
        std::optional<int64_t> device_layers = std::nullopt);

  const Spec& spec() const { return spec_; }
  const Weights& weights() const { return weights_; }
  const Parts& parts() const { return parts_; }
  const Backend& cpu() const { return *cpu_; }

  // One pass of the decoder; waits for its turn.
  void run(const std::vector<Chunk>& chunks, FunctionRef<void()> interrupt, Probe* probe = nullptr);

 private:
  void renew_scratch();

  Spec spec_;
  Weights weights_;
  std::unique_ptr<Backend> cpu_;
  std::unique_ptr<Backend> device_;  // or null
  Parts parts_;
  std::unique_ptr<Decoder> decoder_;
  ForkSafeMutex mutex_;  // of a pass
};

}  // namespace pythia_rt
