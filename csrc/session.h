// A model that can be run, and sequences that run on it.
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
#include "sampling/sampler.h"

namespace pythia_rt {

// Weights and the devices that run them. Constant once built: any number of sessions on any number
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
  void run(const std::vector<Chunk>& chunks, FunctionRef<void()> interrupt);

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

// ln of what a softmax makes of a logit, all raw logits counted.
float log_softmax(const SoftmaxTerm& term);

// A sampled token and its log-probability under the model, before any sampling step.
struct SampledToken {
  int32_t token;
  float log_probability;
};

// One sequence: its cache, and the logits that follow its last token.
class Session {
 public:
  // `capacity` positions at most; 0 for as many as the model has.
  Session(std::shared_ptr<Model> model, int64_t capacity, KvFormat kv_format);

  Model& model() const { return *model_; }
  KvCache& cache() { return cache_; }
  int64_t position() const { return position_; }
  int64_t capacity() const { return capacity_; }

  // Appends tokens; the logits after the last one are kept. `interrupt` is called often during
  // long work and may throw to stop it: what was appended until then stays.
  void prefill(const int32_t* tokens, int64_t count, FunctionRef<void()> interrupt);

  // Appends tokens and writes the logits after each: out [count][vocab_size].
  void logits(const int32_t* tokens, int64_t count, float* out, FunctionRef<void()> interrupt);

  // Samples the next token from the kept logits. It is appended by the next step, so that a last
  // token costs no pass. Throws std::invalid_argument without logits or without room.
  SampledToken step(Sampler& sampler);

  // Forgets everything after the first `position` tokens. There are no kept logits afterwards.
  void rewind(int64_t position);

  // The kept logits [vocab_size]; throws std::invalid_argument where there are none.
  const std::vector<float>& last_logits() const;

 private:
  friend class BatchedSequence;  // of batch.cc, which runs sessions

  std::shared_ptr<Model> model_;
  int64_t capacity_;
  KvCache cache_;
  int64_t position_ = 0;            // the cache's length, and 1 more while a token is pending
  std::vector<float> last_logits_;  // [vocab_size], or empty
  int32_t pending_ = -1;            // sampled, but not in the cache yet
};

// Tokens to append to a session, and where go the logits after each, [count][vocab_size] or null,
// or the log-probabilities of all but the first, [count - 1] or null. A session has no kept logits
// after the latter.
struct SequenceInput {
  Session* session;
  const int32_t* tokens;
  int64_t count;
  float* logits = nullptr;
  float* log_probabilities = nullptr;
};

// Appends to several sequences of one model in shared passes. Throws std::invalid_argument, before
// anything is appended, for sessions of different models, a session named twice, no tokens, tokens
// out of the vocabulary or more than a session has room for. See batch.cc.
void forward(const std::vector<SequenceInput>& inputs, FunctionRef<void()> interrupt);

}  // namespace pythia_rt
