#include "engine/model.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "backend/cpu.h"
#include "base/error.h"
#include "forward/workspace.h"
#include "kernels/dispatch.h"

namespace pythia_rt {

namespace {

struct Holder {
  explicit Holder(std::atomic<std::thread::id>& who) : who(who) {
    who = std::this_thread::get_id();
  }
  ~Holder() { who = std::thread::id(); }
  std::atomic<std::thread::id>& who;
};

}  // namespace

Model::Model(const Spec& spec, const std::map<std::string, Format>& formats,
             const std::map<std::string, Blob>& tensors, std::unique_ptr<Backend> cpu,
             std::unique_ptr<Backend> device, std::optional<int64_t> device_layers)
    : spec_(spec), cpu_(std::move(cpu)), device_(std::move(device)) {
  validate(spec_);
  weights_ = bind_weights(spec_, formats, tensors);
  stages_ = divide_layers(spec_, device_.get(), *cpu_, device_layers);
  place_weights(spec_, stages_, weights_, Workspace::bytes(spec_));
  pool_ = std::make_unique<PagePool>(stages_, spec_.n_kv_heads, spec_.head_dim);
  decoder_ = std::make_unique<Decoder>(spec_, weights_, stages_);
}

void Model::set_left_out(LeftOut left_out) {
  for (const auto* constants : {&left_out.keys, &left_out.values}) {
    for (const auto& [layer, constant] : *constants) {
      if (layer >= 0 && layer < spec_.n_layers &&
          static_cast<int64_t>(constant.size()) == spec_.key_value_size()) {
        continue;
      }
      throw_invalid("what is left out of a layer's keys or values is an array [",
                    spec_.key_value_size(), "] of float32");
    }
  }
  between_passes([&] { weights_.left_out = std::move(left_out); });
}

void Model::run(const std::vector<Chunk>& chunks, FunctionRef<void()> interrupt, Probe* probe) {
  between_passes([&] { decoder_->run(chunks, interrupt, probe); });
}

void Model::make_room(const std::vector<RoomRequest>& requests) {
  const auto has_room = [](const RoomRequest& request) {
    return request.cache->has_room(request.count);
  };
  if (std::all_of(requests.begin(), requests.end(), has_room)) return;
  between_passes([&] {
    try {
      for (const RoomRequest& request : requests) request.cache->make_room(request.count);
    } catch (...) {
      for (const RoomRequest& request : requests) request.cache->trim();
      throw;
    }
  });
}

void Model::spread(int64_t n, FunctionRef<void(int64_t index)> task) {
  if (!mutex_.is_orphaned()) {  // else the threads are of no use before the next pass
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (lock.owns_lock()) return cpu_->each(n, task);
  }
  for (int64_t i = 0; i < n; ++i) task(i);
}

void Model::between_passes(FunctionRef<void()> function) {
  const bool is_orphaned = mutex_.is_orphaned();
  if (!is_orphaned && runner_ == std::this_thread::get_id()) {
    throw_failed("a model cannot be used by what is called in the middle of one of its passes");
  }
  const std::lock_guard lock(mutex_);
  if (is_orphaned) renew_scratch();
  const Holder holder(runner_);
  function();
}

// In a child of fork() that cut a pass short: a thread that is not here may have been changing
// whatever a pass needs, so all of it is made anew, and the old is never touched again.
void Model::renew_scratch() {
  Backend* const lost = cpu_.release();
  static_cast<void>(decoder_.release());
  cpu_ = make_cpu_backend(kernels_for(lost->isa()), lost->n_threads());
  for (Stage& stage : stages_) {
    if (stage.backend == lost) stage.backend = cpu_.get();
  }
  decoder_ = std::make_unique<Decoder>(spec_, weights_, stages_);
}

}  // namespace pythia_rt
