// The forward pass: layers over devices.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backend/stage.h"
#include "base/function_ref.h"
#include "forward/chunk.h"
#include "forward/logits.h"
#include "forward/probe.h"
#include "forward/workspace.h"
#include "model/spec.h"
#include "model/weights.h"

namespace pythia_rt {

class Decoder {
 public:
  // Each stage's weights must be where its device reads it (place_weights).
  Decoder(const Spec& spec, const Weights& weights, const Stages& stages);

  // One pass over at most kMaxRows tokens of any number of sequences. Appends to their caches,
  // which must have room. `between_layers` is called by passes that take longer than a token; if it
  // throws, nothing has been appended.
  void run(const std::vector<Chunk>& chunks, FunctionRef<void()> between_layers,
           Probe* probe = nullptr);

 private:
  // Layers that a pass runs in a row on one device.
  struct Leg {
    size_t stage;
    std::vector<int64_t> layers;
  };

  std::vector<Leg> legs_over(const std::vector<int64_t>& layers) const;
  size_t stage_of(int64_t layer) const;
  void begin(size_t stage_index, const std::vector<Chunk>& chunks, int64_t repeats);
  void move(size_t from, size_t to);
  void embed(const Workspace& workspace, Probe* probe);
  void run_leg(const Leg& leg, bool is_first, bool is_last, FunctionRef<void()> between_layers,
               Probe* probe);

  const Spec& spec_;
  const Weights& weights_;
  std::vector<std::unique_ptr<Workspace>> workspaces_;
  std::vector<Leg> legs_;  // over all layers: one for each stage
  Logits logits_;
  std::vector<float> hidden_;  // [rows][hidden_size], on its way to the next device
};

}  // namespace pythia_rt
