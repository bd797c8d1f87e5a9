#include "session.h"

#include <mutex>
#include <utility>

#include "backend/cpu.h"
#include "base/error.h"
#include "forward/activations.h"
#include "kernels/dispatch.h"
#include "kernels/softmax.h"
#include "sampling/portable_math.h"

namespace pythia_rt {

Model::Model(const Spec& spec, const std::map<std::string, Format>& formats,
             const std::map<std::string, Blob>& tensors, std::unique_ptr<Backend> cpu,
             std::unique_ptr<Backend> device, std::optional<int64_t> device_layers)
    : spec_(spec), cpu_(std::move(cpu)), device_(std::move(device)) {
  validate(spec_);
  weights_ = bind_weights(spec_, formats, tensors);
  parts_ = divide_layers(spec_, device_.get(), *cpu_, device_layers);
  place_weights(spec_, parts_, weights_, Activations::bytes(spec_));
  decoder_ = std::make_unique<Decoder>(spec_, weights_, parts_);
}

void Model::run(const std::vector<Chunk>& chunks, FunctionRef<void()> interrupt) {
  const bool is_orphaned = mutex_.is_orphaned();
  const std::lock_guard lock(mutex_);
  if (is_orphaned) renew_scratch();
  decoder_->run(chunks, interrupt);
}

// In a child of fork() that cut a pass short: a thread that is not here may have been changing
// whatever a pass needs, so all of it is made anew, and the old is never touched again.
void Model::renew_scratch() {
  Backend* const lost = cpu_.release();
  static_cast<void>(decoder_.release());
  cpu_ = make_cpu_backend(kernels_for(lost->isa()), lost->n_threads());
  for (Part& part : parts_) {
    if (part.backend == lost) part.backend = cpu_.get();
  }
  decoder_ = std::make_unique<Decoder>(spec_, weights_, parts_);
}

namespace {

int64_t checked_capacity(const Model& model, int64_t capacity) {
  const int64_t most = model.spec().max_positions;
  if (capacity < 0 || capacity > most) {
    throw_invalid("a session holds between 1 and ", most, " positions with this model, not ",
                  capacity);
  }
  return capacity == 0 ? most : capacity;
}

}  // namespace

float log_softmax(const SoftmaxTerm& term) {
  const double centred = static_cast<double>(term.logit) - term.largest;
  return static_cast<float>(centred - portable_log(term.sum));
}

Session::Session(std::shared_ptr<Model> model, int64_t capacity, KvFormat kv_format)
    : model_(std::move(model)),
      capacity_(checked_capacity(*model_, capacity)),
      cache_(model_->spec(), model_->parts(), kv_format, capacity_) {}

void Session::prefill(const int32_t* tokens, int64_t count, FunctionRef<void()> interrupt) {
  forward({{this, tokens, count}}, interrupt);
}

void Session::logits(const int32_t* tokens, int64_t count, float* out,
                     FunctionRef<void()> interrupt) {
  forward({{this, tokens, count, out}}, interrupt);
}

SampledToken Session::step(Sampler& sampler) {
  if (position_ >= capacity_) {
    throw_invalid("the session's ", capacity_, " positions are used up: rewind it, or make one of ",
                  "larger capacity");
  }
  if (pending_ >= 0) {
    const int32_t token = std::exchange(pending_, -1);
    position_ -= 1;  // forward() counts it again
    prefill(&token, 1, [] {});
  }
  const std::vector<float>& logits = last_logits();
  const int32_t token = sampler.sample(logits.data(), logits.size());
  const SoftmaxTerm term = softmax(kernels_for(model_->cpu().isa()), logits.data(),
                                   static_cast<int64_t>(logits.size()), token);
  pending_ = token;
  position_ += 1;
  return {token, log_softmax(term)};
}

void Session::rewind(int64_t position) {
  if (position < 0 || position > position_) {
    throw_invalid("a session of ", position_, " tokens cannot be rewound to ", position);
  }
  if (position == position_) return;
  pending_ = -1;
  position_ = position;
  cache_.set_length(position);
  last_logits_.clear();
}

const std::vector<float>& Session::last_logits() const {
  if (last_logits_.empty()) {
    throw_invalid("the session has no logits to continue from: run at least one token first");
  }
  return last_logits_;
}

}  // namespace pythia_rt
