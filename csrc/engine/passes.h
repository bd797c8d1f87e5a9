// Passes over the tokens that wait in any number of sequences of one model.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/function_ref.h"
#include "base/softmax_term.h"
#include "engine/sequence.h"

namespace pythia_rt {

// A sequence whose waiting tokens are to be run, and what is asked about the last `count` of them.
// Each pass answers it for a chunk of them (forward/chunk.h).
struct Request {
  Sequence* sequence;
  int64_t count = 0;
  float* logits = nullptr;       // after each of them: [count][vocab_size], or null
  SoftmaxTerm* terms = nullptr;  // or of all but the first of them: [count - 1]
  std::optional<int32_t> next =
      std::nullopt;          // and of this token after them, which is not run: [count]
  bool only_probed = false;  // the head does not run; no logits are kept
};

// Runs passes until nothing waits. Afterwards every sequence has kept logits, but for those that
// were asked for terms or only probed. `interrupt` is called often during long work and may throw
// to stop it: what was run until then stays, what waits is dropped. Throws std::invalid_argument,
// before anything is run, for sequences of different models or one that is named twice, and NoRoom
// where the caches' pages do not suffice: then what waits still does. `probe`, if there is one,
// looks into the passes; it knows texts by their requests' numbers.
void run_to_end(const std::vector<Request>& requests, FunctionRef<void()> interrupt,
                Probe* probe = nullptr);

// Appends tokens[i], the `count` of requests[i], to each sequence, and runs to the end. Throws as
// Sequence::check and run_to_end do, and for a `next` out of the vocabulary, before anything is
// appended.
void append_and_run(const std::vector<Request>& requests, const std::vector<const int32_t*>& tokens,
                    FunctionRef<void()> interrupt, Probe* probe = nullptr);

}  // namespace pythia_rt
