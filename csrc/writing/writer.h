// A text that is being written.
#pragma once

#include <cstdint>
#include <exception>
#include <vector>

#include "base/softmax_term.h"
#include "engine/sequence.h"
#include "forward/patterns.h"
#include "sampling/sampler.h"
#include "writing/draft.h"
#include "writing/draft_length.h"
#include "writing/hook.h"

namespace pythia_rt {

struct WriterOptions {
  int64_t max_tokens = 0;  // new ones; with none the prompt is read, and that is all
  std::vector<int32_t> end_ids;
  std::vector<uint32_t> watched;  // a bit for each id, or empty: whoever asked wants to see these
  int64_t n_top = 0;              // likeliest tokens to name beside each one
  bool echo = false;              // the prompt's tokens are judged too, as far as they wait
};

// Tokens, and of each its log-probability and the n_top likeliest in its place with theirs, all
// under the model's own distribution, before hooks and sampling.
struct Judged {
  std::vector<int32_t> tokens;
  std::vector<float> log_probabilities;
  std::vector<int32_t> top_ids;  // [tokens][n_top], the likeliest first, of equals the lower id
  std::vector<float> top_log_probabilities;
};

// New tokens; of those that drafts proposed meanwhile, how many, and how many were right.
struct Written : Judged {
  int64_t n_proposed = 0;
  int64_t n_accepted = 0;
};

// Reads what waits in a sequence, and writes on. Sequence and sampler are the caller's, as are
// draft, hook and edits, each null for none. The tokens do not depend on the draft, nor on which
// passes the text takes part in.
class Writer {
 public:
  // Throws std::invalid_argument for more tokens than the sequence has room for, and where there is
  // nothing to begin from.
  Writer(Sequence& sequence, Sampler& sampler, WriterOptions options, Draft* draft, Hook* hook,
         const Edits* edits = nullptr);

  Sequence& sequence() const { return sequence_; }
  int64_t n_tokens() const { return n_tokens_; }  // new ones
  // It has all its tokens, or ended with one of end_ids, or failed.
  bool has_ended() const { return has_ended_ || error_ != nullptr; }
  const std::exception_ptr& error() const { return error_; }
  // It has ended, or written one of the watched tokens since the last take().
  bool wants_attention() const { return has_ended() || was_watched_; }

  // What came since the last call; and of the prompt, but for its first token, what was read.
  Written take();
  Judged take_echo();

  // The rest is for passes (write.h).

  // Whether it waits for its next token, rather than for its prompt to be read.
  bool is_writing() const { return n_tokens_ > 0 || sequence_.n_waiting() <= 1; }
  // Samples from the logits that are there, if any are.
  void begin();
  // Takes guesses along into the next pass, at most `most`. Returns how many.
  int64_t propose(const Pace& pace, int64_t n_rows, int64_t most, FunctionRef<void()> interrupt);
  // What it wants of the next pass, at most so many rows, n_waiting() of them if it is writing.
  Chunk chunk(int64_t most);
  // That chunk was run.
  void settle(const Chunk& chunk);
  // It was not.
  void withdraw();
  // Whether begin() and settle() call the hook, and so must stay in the thread that runs passes.
  bool has_hook() const { return hook_ != nullptr; }
  // What to change in its rows, and what that has to know of those before.
  const Edits* edits() const { return edits_; }
  SeenText& seen() { return seen_; }
  // Its sequence is a fork of what another one has read with the same edits.
  void see_what(const Writer& other) { seen_ = other.seen_; }
  // It was run, but its edits failed. If it had guesses, the text might not have failed without
  // them: they are taken back, and the next pass takes none along. Else the text ends.
  void fail(const Chunk& chunk, std::exception_ptr error);

 private:
  Chunk echo_chunk(int64_t most);
  void keep_echo(const Chunk& chunk);
  void take_back(const Chunk& chunk);
  bool sample(const float* logits);
  void verify();
  void judge(Judged& into, const float* logits, int32_t token) const;
  bool is_end(int32_t token) const;

  Sequence& sequence_;
  Sampler& sampler_;
  WriterOptions options_;
  Draft* draft_;
  Hook* hook_;
  const Edits* edits_;
  SeenText seen_;
  DraftLength length_;
  Written written_;
  Judged echoed_;
  std::vector<int32_t> guesses_;    // that wait in the sequence, after its last token
  std::vector<float> row_logits_;   // [rows][vocab_size] of a chunk that wants all of them
  std::vector<SoftmaxTerm> terms_;  // of an echo
  std::vector<float> changed_;      // [vocab_size], for a hook
  int64_t n_tokens_ = 0;
  bool has_ended_ = false;
  bool was_watched_ = false;
  bool goes_alone_ = false;  // into the next pass, without guesses
  std::exception_ptr error_;
  // Of passes that were taken back; until take(), since whoever calls that may free them.
  std::vector<std::exception_ptr> overruled_;
};

}  // namespace pythia_rt
