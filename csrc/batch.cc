// Running several sequences in shared passes.
#include <algorithm>
#include <set>
#include <utility>

#include "base/error.h"
#include "session.h"

namespace pythia_rt {

namespace {

void check_tokens(const Spec& spec, const int32_t* tokens, int64_t count) {
  if (count < 1) throw_invalid("there are no tokens to run: give at least one");
  for (int64_t i = 0; i < count; ++i) {
    if (tokens[i] < 0 || tokens[i] >= spec.vocab_size) {
      throw_invalid("token ", tokens[i], " (at index ", i, ") is not in the vocabulary of ",
                    spec.vocab_size);
    }
  }
}

void check_inputs(const std::vector<SequenceInput>& inputs) {
  const Model& model = inputs.front().session->model();
  std::set<const Session*> seen;
  for (const SequenceInput& input : inputs) {
    const Session& session = *input.session;
    if (&session.model() != &model) throw_invalid("the sessions of a batch must share a model");
    if (!seen.insert(&session).second) throw_invalid("a batch names the same session twice");
    check_tokens(model.spec(), input.tokens, input.count);
    const int64_t room = session.capacity() - session.position();
    if (input.count > room) {
      throw_invalid("the session has room for ", room, " more tokens of ", session.capacity(),
                    ", not for ", input.count);
    }
  }
}

}  // namespace

// One sequence on its way through the passes of a batch.
class BatchedSequence {
 public:
  explicit BatchedSequence(const SequenceInput& input)
      : session_(*input.session),
        logits_(input.logits),
        log_probabilities_(input.log_probabilities) {
    // A token that was sampled but not run yet comes first; nobody asked for its logits.
    if (session_.pending_ >= 0) {
      tokens_.push_back(session_.pending_);
      n_leading_ = 1;
    }
    tokens_.insert(tokens_.end(), input.tokens, input.tokens + input.count);
    session_.pending_ = -1;
    last_ = std::move(session_.last_logits_);  // the memory, not what it holds
    session_.last_logits_.clear();
    session_.position_ = session_.cache_.length();
    if (log_probabilities_ != nullptr) terms_.resize(static_cast<size_t>(input.count - 1));
  }

  bool is_done() const { return next_ == count(); }

  // The next tokens, `room` at most, as part of a pass.
  Chunk take(int64_t room) {
    const bool is_leading = next_ < n_leading_;
    const int64_t end = is_leading ? n_leading_ : count();
    const int64_t n = std::min(end - next_, room);
    Chunk chunk{&session_.cache_, tokens_.data() + next_, n, nullptr, false};
    const int64_t vocab_size = session_.model().spec().vocab_size;
    if (log_probabilities_ != nullptr) {
      if (!is_leading) {
        chunk.terms = terms_.data() + (next_ - n_leading_);
        chunk.n_terms = std::min(n, count() - 1 - next_);
      }
    } else if (logits_ != nullptr && !is_leading) {
      chunk.logits = logits_ + (next_ - n_leading_) * vocab_size;
      chunk.all_logits = true;
    } else if (next_ + n == count()) {
      last_.resize(static_cast<size_t>(vocab_size));
      chunk.logits = last_.data();
    }
    next_ += n;
    return chunk;
  }

  // After a pass: the session takes over what has been run, and at the end the last logits.
  void settle() {
    session_.position_ = session_.cache_.length();
    if (log_probabilities_ != nullptr) {
      if (is_done()) {
        std::transform(terms_.begin(), terms_.end(), log_probabilities_, log_softmax);
      }
      return;
    }
    if (!is_done() || !session_.last_logits_.empty()) return;
    if (logits_ != nullptr) {
      const int64_t vocab_size = session_.model().spec().vocab_size;
      const float* last = logits_ + (count() - n_leading_ - 1) * vocab_size;
      last_.assign(last, last + vocab_size);
    }
    session_.last_logits_ = std::move(last_);
  }

 private:
  int64_t count() const { return static_cast<int64_t>(tokens_.size()); }

  Session& session_;
  float* logits_;             // where the caller wants the logits of every token, or null
  float* log_probabilities_;  // or the log-probability of every token but the first
  std::vector<int32_t> tokens_;
  int64_t n_leading_ = 0;
  int64_t next_ = 0;
  std::vector<float> last_;         // logits of the last token
  std::vector<SoftmaxTerm> terms_;  // of the log-probabilities
};

void forward(const std::vector<SequenceInput>& inputs, FunctionRef<void()> interrupt) {
  if (inputs.empty()) return;
  check_inputs(inputs);
  Model& model = inputs.front().session->model();
  std::vector<BatchedSequence> sequences(inputs.begin(), inputs.end());

  for (size_t first = 0; first < sequences.size();) {
    // A pass takes tokens of as many sequences as it has room for, in order.
    std::vector<Chunk> chunks;
    int64_t room = kMaxRows;
    for (size_t i = first; i < sequences.size() && room > 0; ++i) {
      if (sequences[i].is_done()) continue;
      chunks.push_back(sequences[i].take(room));
      room -= chunks.back().count;
    }
    model.run(chunks, interrupt);
    for (BatchedSequence& sequence : sequences) sequence.settle();
    while (first < sequences.size() && sequences[first].is_done()) first += 1;
  }
}

}  // namespace pythia_rt
