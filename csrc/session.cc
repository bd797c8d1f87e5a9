#include "session.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/error.h"

namespace pythia_rt {

Model::Model(const Spec& spec, const std::map<std::string, Format>& formats,
             const std::map<std::string, Blob>& tensors, std::unique_ptr<Backend> backend)
    : spec_(spec), backend_(std::move(backend)) {
  validate(spec_);
  weights_ = bind_weights(spec_, formats, tensors);
  decoder_ = std::make_unique<Decoder>(spec_, weights_, *backend_);
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

void check_tokens(const Spec& spec, const int32_t* tokens, int64_t count) {
  if (count < 1) throw_invalid("there are no tokens to run: give at least one");
  for (int64_t i = 0; i < count; ++i) {
    if (tokens[i] < 0 || tokens[i] >= spec.vocab_size) {
      throw_invalid("token ", tokens[i], " (at index ", i, ") is not in the vocabulary of ",
                    spec.vocab_size);
    }
  }
}

}  // namespace

Session::Session(std::shared_ptr<Model> model, int64_t capacity, KvFormat kv_format)
    : model_(std::move(model)),
      capacity_(checked_capacity(*model_, capacity)),
      cache_(model_->backend(), model_->spec(), kv_format, capacity_) {}

void Session::prefill(const int32_t* tokens, int64_t count, FunctionRef<void()> between_passes) {
  forward({{this, tokens, count, nullptr}}, between_passes);
}

void Session::logits(const int32_t* tokens, int64_t count, float* out,
                     FunctionRef<void()> between_passes) {
  forward({{this, tokens, count, out}}, between_passes);
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
  const float log_probability = pythia_rt::log_probability(logits.data(), logits.size(), token);
  pending_ = token;
  position_ += 1;
  return {token, log_probability};
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

namespace {

// What is left to run of one sequence.
struct Remaining {
  Session* session;
  std::vector<int32_t> tokens;  // a pending token of the session comes first
  int64_t next = 0;
  int64_t skipped = 0;  // leading tokens whose logits nobody asked for
  float* logits = nullptr;
};

}  // namespace

void forward(const std::vector<SequenceInput>& inputs, FunctionRef<void()> between_passes) {
  if (inputs.empty()) return;
  Model& model = *inputs.front().session->model_;
  const int64_t vocab_size = model.spec().vocab_size;
  std::set<const Session*> seen;
  for (const SequenceInput& input : inputs) {
    const Session& session = *input.session;
    if (session.model_.get() != &model) throw_invalid("the sessions of a batch must share a model");
    if (!seen.insert(&session).second) throw_invalid("a batch names the same session twice");
    check_tokens(model.spec(), input.tokens, input.count);
    if (session.position_ + input.count > session.capacity_) {
      throw_invalid("the session has room for ", session.capacity_ - session.position_,
                    " more tokens of ", session.capacity_, ", not for ", input.count);
    }
  }

  std::vector<Remaining> remaining;
  for (const SequenceInput& input : inputs) {
    Session& session = *input.session;
    Remaining work{&session, {}, 0, 0, input.logits};
    if (session.pending_ >= 0) {
      work.tokens.push_back(std::exchange(session.pending_, -1));
      work.skipped = 1;
    }
    work.tokens.insert(work.tokens.end(), input.tokens, input.tokens + input.count);
    session.last_logits_.clear();
    session.position_ = session.cache_.length();
    remaining.push_back(std::move(work));
  }

  for (size_t first = 0; first < remaining.size();) {
    // Fill a pass with tokens of as many sequences as fit, in order.
    std::vector<Chunk> chunks;
    int64_t rows = 0;
    for (size_t i = first; i < remaining.size() && rows < kMaxRows; ++i) {
      Remaining& work = remaining[i];
      Session& session = *work.session;
      const auto total = static_cast<int64_t>(work.tokens.size());
      const bool is_skipped = work.next < work.skipped;
      const int64_t end = is_skipped ? work.skipped : total;
      const int64_t count = std::min(end - work.next, kMaxRows - rows);
      Chunk chunk{&session.cache_, work.tokens.data() + work.next, count, nullptr, false};
      if (work.logits != nullptr && !is_skipped) {
        chunk.logits = work.logits + (work.next - work.skipped) * vocab_size;
        chunk.all_logits = true;
      } else if (work.next + count == total) {
        session.last_logits_.resize(static_cast<size_t>(vocab_size));
        chunk.logits = session.last_logits_.data();
      }
      chunks.push_back(chunk);
      work.next += count;
      rows += count;
      if (work.next < total) break;  // the pass is full, or a skipped token goes before the rest
    }
    {
      const std::lock_guard lock(model.mutex_);
      model.decoder_->run(chunks);
    }
    while (first < remaining.size() &&
           remaining[first].next == static_cast<int64_t>(remaining[first].tokens.size())) {
      const Remaining& work = remaining[first];
      if (work.logits != nullptr) {
        const float* last = work.logits + (work.next - work.skipped - 1) * vocab_size;
        work.session->last_logits_.assign(last, last + vocab_size);
      }
      first += 1;
    }
    for (const Remaining& work : remaining) work.session->position_ = work.session->cache_.length();
    if (first < remaining.size()) between_passes();
  }
}

}  // namespace pythia_rt
