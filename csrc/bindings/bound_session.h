// A session as Python holds it.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/distinct.h"
#include "bindings/arrays.h"
#include "bindings/bound_model.h"
#include "bindings/gil.h"
#include "bindings/locks.h"
#include "engine/sequence.h"

namespace pythia_rt {

// A session that two Python threads cannot run at the same time.
class BoundSession {
 public:
  BoundSession(const std::shared_ptr<BoundModel>& model, int64_t capacity, KvFormat kv_format)
      : model_(model),
        sequence_(std::shared_ptr<Model>(model, model->model.get()), capacity, kv_format) {}

  std::unique_ptr<BoundSession> fork() {
    const GilRelease release;
    const auto lock = claim(mutex_, "session");
    return std::unique_ptr<BoundSession>(new BoundSession(model_, sequence_.fork()));
  }

  // Calls function(sequence, interrupt) without the GIL.
  template <typename Function>
  auto run(const Function& function) {
    const GilRelease release;
    const auto lock = claim(mutex_, "session");
    const auto interrupt = [&] { release.check_signals(); };
    if constexpr (std::is_void_v<decltype(function(sequence_, interrupt))>) {
      function(sequence_, interrupt);
      model_->check_memory();
    } else {
      const auto result = function(sequence_, interrupt);
      model_->check_memory();
      return result;
    }
  }

  const BoundModel& model() const { return *model_; }
  Sequence& sequence() { return sequence_; }
  ForkSafeMutex& mutex() { return mutex_; }

 private:
  BoundSession(std::shared_ptr<BoundModel> model, Sequence sequence)
      : model_(std::move(model)), sequence_(std::move(sequence)) {}

  std::shared_ptr<BoundModel> model_;
  Sequence sequence_;
  ForkSafeMutex mutex_;
};

// Locks all sessions of a batch.
inline std::vector<std::unique_lock<ForkSafeMutex>> claim_all(
    const std::vector<BoundSession*>& sessions) {
  check_distinct(sessions, "session");
  std::vector<std::unique_lock<ForkSafeMutex>> locks;
  for (BoundSession* session : sessions) locks.push_back(claim(session->mutex(), "session"));
  return locks;
}

// Room for the logits of `count` tokens.
inline FloatArray logits_array(const Sequence& sequence, int64_t count) {
  return FloatArray({count, sequence.model().spec().vocab_size});
}

}  // namespace pythia_rt
