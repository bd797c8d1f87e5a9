#include "writing/writer.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "engine/log_softmax.h"
#include "engine/top_tokens.h"
#include "kernels/dispatch.h"
#include "kernels/softmax.h"

namespace pythia_rt {

namespace {

// Rows of an echo whose logits are looked through at a time.
constexpr int64_t kEchoRows = 32;

}  // namespace

Writer::Writer(Sequence& sequence, Sampler& sampler, WriterOptions options, Draft* draft,
               Hook* hook, const Edits* edits)
    : sequence_(sequence),
      sampler_(sampler),
      options_(std::move(options)),
      draft_(draft),
      hook_(hook),
      edits_(edits) {
  const int64_t room = sequence_.capacity() - sequence_.position();
  if (options_.max_tokens < 0 || options_.max_tokens > room) {
    throw_invalid("the session has room for ", room, " more tokens, not for ", options_.max_tokens);
  }
  const int64_t vocab_size = sequence_.model().spec().vocab_size;
  if (options_.n_top < 0 || options_.n_top > vocab_size) {
    throw_invalid("there are between 0 and ", vocab_size, " likeliest tokens, not ",
                  options_.n_top);
  }
  if (!options_.watched.empty() &&
      static_cast<int64_t>(options_.watched.size()) * 32 < vocab_size) {
    throw_invalid("the watched ids have ", options_.watched.size() * 32, " bits for a vocabulary ",
                  "of ", vocab_size);
  }
  sequence_.check_layers(nullptr);
  if (sequence_.n_waiting() == 0 && !sequence_.is_ready()) {
    throw_invalid("the session has neither tokens that wait nor logits to continue from");
  }
}

Written Writer::take() {
  was_watched_ = false;
  overruled_.clear();
  return std::exchange(written_, {});
}

Judged Writer::take_echo() { return std::exchange(echoed_, {}); }

bool Writer::is_end(int32_t token) const {
  const auto& ids = options_.end_ids;
  return std::find(ids.begin(), ids.end(), token) != ids.end();
}

void Writer::judge(Judged& into, const float* logits, int32_t token) const {
  const int64_t vocab_size = sequence_.model().spec().vocab_size;
  const SoftmaxTerm term =
      softmax(kernels_for(sequence_.model().cpu().isa()), logits, vocab_size, token);
  into.tokens.push_back(token);
  into.log_probabilities.push_back(log_softmax(term));
  if (options_.n_top == 0) return;
  const size_t place = into.top_ids.size(), n = static_cast<size_t>(options_.n_top);
  into.top_ids.resize(place + n);
  into.top_log_probabilities.resize(place + n);
  top_tokens(logits, vocab_size, term, options_.n_top, into.top_ids.data() + place,
             into.top_log_probabilities.data() + place);
}

// The next token from these logits, into written_; false where that failed, and then neither it nor
// the sampler has changed.
bool Writer::sample(const float* logits) {
  const int64_t vocab_size = sequence_.model().spec().vocab_size;
  try {
    const float* from = logits;
    if (hook_ != nullptr && hook_->changes()) {
      changed_.resize(static_cast<size_t>(vocab_size));
      hook_->change(logits, vocab_size, changed_.data());
      from = changed_.data();
    }
    if (hook_ != nullptr && hook_->masks()) {
      if (const uint32_t* allowed = hook_->allowed()) sampler_.allow(allowed);
    }
    const int32_t token = sampler_.sample(from, static_cast<size_t>(vocab_size));
    judge(written_, logits, token);
    ++n_tokens_;
    has_ended_ = n_tokens_ >= options_.max_tokens || is_end(token);
    if (!options_.watched.empty()) {
      const auto id = static_cast<uint32_t>(token);
      was_watched_ = was_watched_ || (options_.watched[id / 32] >> (id % 32) & 1) != 0;
    }
    if (draft_ != nullptr) draft_->extend(token);
    if (hook_ != nullptr) hook_->accept(token);
    return true;
  } catch (const std::exception&) {
    error_ = std::current_exception();
    return false;
  }
}

void Writer::begin() {
  if (wants_attention() || !sequence_.is_ready()) return;
  if (options_.max_tokens == 0) {
    has_ended_ = true;
  } else if (sample(sequence_.last_logits().data())) {
    sequence_.append(&written_.tokens.back(), 1);
  }
}

int64_t Writer::propose(const Pace& pace, int64_t n_rows, int64_t most,
                        FunctionRef<void()> interrupt) {
  if (draft_ == nullptr || goes_alone_ || n_tokens_ == 0 || sequence_.n_waiting() != 1) return 0;
  // The last token needs no guess after it.
  most = std::min({most, DraftLength::kLongest, options_.max_tokens - n_tokens_ - 1,
                   sequence_.capacity() - sequence_.position()});
  if (most < 1) return 0;
  std::vector<int32_t> guesses(static_cast<size_t>(most));
  if (draft_->is_free()) most = draft_->propose(most, guesses.data(), interrupt);
  most = length_.next(pace, n_rows, draft_->seconds(), most);
  if (!draft_->is_free()) most = draft_->propose(most, guesses.data(), interrupt);
  const auto vocab_size = static_cast<int32_t>(sequence_.model().spec().vocab_size);
  const auto end = guesses.begin() + most;
  guesses.erase(
      std::find_if(guesses.begin(), end, [&](int32_t id) { return id < 0 || id >= vocab_size; }),
      guesses.end());
  if (guesses.empty()) return 0;
  sequence_.append(guesses.data(), static_cast<int64_t>(guesses.size()));
  guesses_ = std::move(guesses);
  return static_cast<int64_t>(guesses_.size());
}

void Writer::withdraw() {
  sequence_.rewind(sequence_.position() - static_cast<int64_t>(guesses_.size()));
  guesses_.clear();
}

Chunk Writer::chunk(int64_t most) {
  const int64_t n_waiting = sequence_.n_waiting();
  if (options_.echo && n_tokens_ == 0 && n_waiting > 1) return echo_chunk(most);
  Chunk chunk{&sequence_.cache(), sequence_.waiting(), std::min(n_waiting, most)};
  if (!guesses_.empty()) {
    row_logits_.resize(static_cast<size_t>(n_waiting * sequence_.model().spec().vocab_size));
    chunk.logits = row_logits_.data();
  } else if (chunk.count == n_waiting) {
    chunk.first_wanted = chunk.count - 1;
    chunk.logits = sequence_.room_for_logits();
  }
  sequence_.keep_logits(false);
  return chunk;
}

// All but the prompt's last token, whose logits are kept.
Chunk Writer::echo_chunk(int64_t most) {
  Chunk chunk{&sequence_.cache(), sequence_.waiting(), std::min(sequence_.n_waiting() - 1, most)};
  if (options_.n_top == 0) {
    terms_.resize(static_cast<size_t>(chunk.count));
    chunk.terms = terms_.data();
    chunk.n_terms = chunk.count;
    chunk.next = chunk.tokens[chunk.count];
  } else {
    chunk.count = std::min(chunk.count, kEchoRows);
    row_logits_.resize(static_cast<size_t>(chunk.count * sequence_.model().spec().vocab_size));
    chunk.logits = row_logits_.data();
  }
  sequence_.keep_logits(false);
  return chunk;
}

void Writer::keep_echo(const Chunk& chunk) {
  const int64_t vocab_size = sequence_.model().spec().vocab_size;
  for (int64_t i = 0; i < chunk.count; ++i) {
    const int32_t token = chunk.tokens[i + 1];
    if (options_.n_top == 0) {
      echoed_.tokens.push_back(token);
      echoed_.log_probabilities.push_back(log_softmax(terms_[static_cast<size_t>(i)]));
    } else {
      judge(echoed_, row_logits_.data() + i * vocab_size, token);
    }
  }
}

void Writer::fail(const Chunk& chunk, std::exception_ptr error) {
  if (!guesses_.empty() && !is_interruption(error)) {
    overruled_.push_back(std::move(error));
    return take_back(chunk);
  }
  error_ = std::move(error);
  sequence_.take(chunk.count);
  withdraw();
}

// The text's last token waits again, and its guesses were of no use.
void Writer::take_back(const Chunk& chunk) {
  const auto n_guesses = static_cast<int64_t>(guesses_.size());
  const int32_t last = chunk.tokens[0];
  sequence_.take(chunk.count);
  sequence_.rewind(sequence_.position() - chunk.count);
  sequence_.append(&last, 1);
  length_.note(n_guesses, 0);
  written_.n_proposed += n_guesses;
  guesses_.clear();
  goes_alone_ = true;
}

void Writer::settle(const Chunk& chunk) {
  goes_alone_ = false;
  const bool is_echo = options_.echo && n_tokens_ == 0 && sequence_.n_waiting() > 1;
  try {
    if (is_echo) keep_echo(chunk);
  } catch (const std::exception&) {
    error_ = std::current_exception();
  }
  sequence_.take(chunk.count);
  if (is_echo || error_ != nullptr) return;
  if (!guesses_.empty()) {
    verify();
  } else if (sequence_.n_waiting() == 0) {
    sequence_.keep_logits(true);
    begin();
  }
}

// Samples from one row after another as long as what is drawn is what was guessed.
void Writer::verify() {
  const int64_t vocab_size = sequence_.model().spec().vocab_size;
  const auto n_guesses = static_cast<int64_t>(guesses_.size());
  const int64_t first = sequence_.position() - n_guesses;  // tokens before the guesses
  int64_t n_right = 0;
  for (;; ++n_right) {
    const float* row = row_logits_.data() + n_right * vocab_size;
    if (!sample(row)) {
      sequence_.rewind(first + n_right);
      std::copy_n(row, vocab_size, sequence_.room_for_logits());
      sequence_.keep_logits(true);
      break;
    }
    const int32_t token = written_.tokens.back();
    const bool is_right = n_right < n_guesses && token == guesses_[static_cast<size_t>(n_right)];
    if (is_right && !wants_attention()) continue;
    sequence_.rewind(first + n_right);
    sequence_.append(&token, 1);
    n_right += is_right ? 1 : 0;
    break;
  }
  length_.note(n_right < n_guesses && wants_attention() ? n_right : n_guesses, n_right);
  written_.n_proposed += n_guesses;
  written_.n_accepted += n_right;
  guesses_.clear();
}

}  // namespace pythia_rt
