// One layer of a model, run alone: how calibration walks through a model of any size.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "backend/backend.h"
#include "base/function_ref.h"
#include "forward/decoder.h"
#include "model/placement.h"
#include "model/spec.h"
#include "model/weights.h"

namespace pythia_rt {

class Layer {
 public:
  // `formats` and `tensors` are those of one layer (see bind_layer), of a model with this spec.
  Layer(const Spec& spec, const std::map<std::string, Format>& formats,
        const std::map<std::string, Blob>& tensors, std::unique_ptr<Backend> backend);
  Layer(const Layer&) = delete;

  const Spec& spec() const { return spec_; }

  // Where the inputs of each matrix go: [count][columns] on the host, or null for nowhere.
  struct Inputs {
    float* qkv = nullptr;
    float* attn_out = nullptr;
    float* mlp_up = nullptr;
    float* mlp_down = nullptr;
  };

  // Turns hidden [count][hidden_size], a whole sequence's residual stream, into what the layer
  // makes of it. `interrupt` is called often and may throw.
  void run(float* hidden, int64_t count, const Inputs& inputs, FunctionRef<void()> interrupt);

 private:
  Spec spec_;  // of a model with this one layer
  std::unique_ptr<Backend> backend_;
  Weights weights_;
  Parts parts_;
  Decoder decoder_;
};

}  // namespace pythia_rt
