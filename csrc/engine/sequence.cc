#include "engine/sequence.h"

#include <algorithm>
#include <utility>

#include "base/distinct.h"
#include "base/error.h"
#include "engine/log_softmax.h"
#include "kernels/dispatch.h"
#include "kernels/softmax.h"

namespace pythia_rt {

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

Sequence::Sequence(std::shared_ptr<Model> model, int64_t capacity, KvFormat kv_format)
    : model_(std::move(model)),
      capacity_(checked_capacity(*model_, capacity)),
      cache_(model_->pool(), kv_format) {}

void Sequence::check(const int32_t* tokens, int64_t count) const {
  if (count < 1) throw_invalid("there are no tokens to run: give at least one");
  check_known(tokens, count);
  const int64_t room = capacity_ - position();
  if (count > room) {
    throw_invalid("the session has room for ", room, " more tokens of ", capacity_, ", not for ",
                  count);
  }
}

void Sequence::check_known(const int32_t* tokens, int64_t count, int64_t first_index) const {
  const int64_t vocab_size = model_->spec().vocab_size;
  for (int64_t i = 0; i < count; ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocab_size) {
      throw_invalid("token ", tokens[i], " (at index ", first_index + i,
                    ") is not in the vocabulary of ", vocab_size);
    }
  }
}

void Sequence::append(const int32_t* tokens, int64_t count) {
  check(tokens, count);
  waiting_.erase(waiting_.begin(), waiting_.begin() + std::exchange(n_taken_, 0));
  waiting_.insert(waiting_.end(), tokens, tokens + count);
}

SampledToken Sequence::sample(Sampler& sampler) {
  const std::vector<float>& logits = last_logits();
  if (position() >= capacity_) {
    throw_invalid("the session's ", capacity_, " positions are used up: rewind it, or make one of ",
                  "larger capacity");
  }
  const int32_t token = sampler.sample(logits.data(), logits.size());
  const SoftmaxTerm term = softmax(kernels_for(model_->cpu().isa()), logits.data(),
                                   static_cast<int64_t>(logits.size()), token);
  append(&token, 1);
  return {token, log_softmax(term)};
}

void Sequence::rewind(int64_t position) {
  if (position < 0 || position > this->position()) {
    throw_invalid("a session of ", this->position(), " tokens cannot be rewound to ", position);
  }
  if (position == this->position()) return;
  has_logits_ = false;
  if (position > cache_.length()) {
    waiting_.resize(static_cast<size_t>(n_taken_ + position - cache_.length()));
    return;
  }
  drop_waiting();
  cache_.set_length(position);
}

void Sequence::check_layers(const std::vector<int64_t>* layers) const {
  if (cache_.length() == 0) return;
  if (layers == nullptr ? !layers_ : layers_ && *layers_ == *layers) return;
  throw_invalid("the session has read its ", cache_.length(), " tokens through ",
                layers_ ? "some of the layers" : "all layers in order",
                ": rewind it to 0, or make a new one");
}

void Sequence::take(int64_t count, const std::vector<int64_t>* layers) {
  n_taken_ += count;
  if (layers == nullptr) {
    layers_.reset();
  } else {
    layers_ = *layers;
  }
}

void Sequence::read_page(int64_t index, std::byte* out) const {
  check_layers(nullptr);
  if (index < 0 || index >= n_pages()) {
    throw_invalid("the session has ", n_pages(), " pages, and no number ", index);
  }
  model_->between_passes([&] { cache_.read_page(index, out); });
}

void Sequence::append_page(const std::byte* bytes, int64_t count) {
  if (n_waiting() > 0 || position() % kPagePositions != 0) {
    throw_invalid("after ", position(), " positions the session's last page is not full");
  }
  check_layers(nullptr);
  const int64_t room = std::min(kPagePositions, capacity_ - position());
  if (count < 1 || count > room) {
    throw_invalid("the page must have between 1 and ", room, " positions, not ", count);
  }
  layers_.reset();
  model_->between_passes([&] { cache_.append_page(bytes, count); });
  has_logits_ = false;
}

int64_t Sequence::adopt(PrefixIndex& index, const std::string& name_space, const int32_t* tokens,
                        int64_t count) {
  if (position() > 0) throw_invalid("a session of ", position(), " tokens cannot adopt others");
  layers_.reset();
  PrefixIndex::Beginning known =
      index.find(name_space, tokens, std::clamp<int64_t>(count - 1, 0, capacity_));
  cache_.adopt(std::move(known.pages), known.length);
  return known.length;
}

void Sequence::keep_in(PrefixIndex& index, const std::string& name_space, const int32_t* tokens,
                       int64_t count) const {
  check_layers(nullptr);
  const int64_t length = std::min(count, cache_.length());
  index.keep(name_space, tokens, {cache_.share(length), length});
}

const std::vector<float>& Sequence::last_logits() const {
  if (!has_logits_) {
    throw_invalid("the session has no logits to continue from: run at least one token first");
  }
  return logits_;
}

void Sequence::drop_waiting() {
  waiting_.clear();
  n_taken_ = 0;
  cache_.trim();
}

float* Sequence::room_for_logits() {
  logits_.resize(static_cast<size_t>(model_->spec().vocab_size));
  return logits_.data();
}

void check_batch(const std::vector<const Sequence*>& sequences) {
  for (const Sequence* sequence : sequences) {
    if (&sequence->model() != &sequences.front()->model()) {
      throw_invalid("the sessions of a batch must share a model");
    }
  }
  check_distinct(sequences, "session");
}

}  // namespace pythia_rt
