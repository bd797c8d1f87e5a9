// A model that can be run.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "backend/backend.h"
#include "base/fork_safe_mutex.h"
#include "base/function_ref.h"
#include "cache/kv_cache.h"
#include "cache/page_pool.h"
#include "forward/decoder.h"
#include "model/placement.h"
#include "model/spec.h"
#include "model/weights.h"

namespace pythia_rt {

struct RoomRequest {
  KvCache* cache;
  int64_t count;
};

// Weights and the devices that run them. Constant once built, but for set_left_out(): any number of
// sequences on any number of threads may share it; their passes take turns.
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
  const Stages& stages() const { return stages_; }
  const Backend& cpu() const { return *cpu_; }
  // Of the caches of all its sequences.
  PagePool& pool() { return *pool_; }

  // All that is left out of keys and values, as who knows the tensors' source tells it before
  // anybody sees or edits scores and patterns. Waits for the pass at hand. Throws
  // std::invalid_argument for another size, and what between_passes() throws.
  void set_left_out(LeftOut left_out);

  // One pass of the decoder, whose caches must have room; waits for its turn.
  void run(const std::vector<Chunk>& chunks, FunctionRef<void()> interrupt, Probe* probe = nullptr);

  // Room for so many positions more in each cache. Throws NoRoom, and nothing has changed.
  void make_room(const std::vector<RoomRequest>& requests);

  // Calls task(i) once for each i in [0, n), on the CPU's threads if nobody else uses them now.
  void spread(int64_t n, FunctionRef<void(int64_t index)> task);

  // Calls function() between two passes, when nobody else uses the devices. Throws
  // std::runtime_error in one, where it would be waited for forever.
  void between_passes(FunctionRef<void()> function);

 private:
  void renew_scratch();

  Spec spec_;
  Weights weights_;
  std::unique_ptr<Backend> cpu_;
  std::unique_ptr<Backend> device_;  // or null
  Stages stages_;
  std::unique_ptr<PagePool> pool_;
  std::unique_ptr<Decoder> decoder_;
  ForkSafeMutex mutex_;                  // of a pass
  std::atomic<std::thread::id> runner_;  // who holds it
};

}  // namespace pythia_rt
