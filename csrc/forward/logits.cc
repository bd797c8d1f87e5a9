#include "forward/logits.h"

#include <algorithm>

#include "forward/norm.h"

namespace pythia_rt {

void Logits::plan(const std::vector<Chunk>& chunks) {
  wanted_rows_.clear();
  wanted_outs_.clear();
  int64_t first_row = 0;
  for (const Chunk& chunk : chunks) {
    if (chunk.logits != nullptr) {
      for (int64_t i = chunk.first_wanted; i < chunk.count; ++i) {
        wanted_rows_.push_back(first_row + i);
        wanted_outs_.push_back(chunk.logits + (i - chunk.first_wanted) * spec_.vocab_size);
      }
    }
    first_row += chunk.count;
  }
}

void Logits::record(const Stage& last) const {
  if (!wanted_rows_.empty()) run_head(last, last.activations.x.first(last.batch.rows()));
}

// The logits of as many rows as `hidden` has.
void Logits::run_head(const Stage& last, Rows hidden) const {
  const Rows normed = last.activations.wanted.first(hidden.count);
  const Rows logits = last.activations.logits.first(hidden.count);
  last.part.backend->layer_norm(norm_parameters(spec_, weights_.final_norm), hidden, normed);
  last.part.backend->linear({&weights_.head, normed, logits, Epilogue::store});
}

// The head is the widest matrix of a small model: it runs for the rows that are asked for, a few
// at a time, and its result goes straight to the caller's memory.
void Logits::compute(const Stage& last) {
  Backend& backend = *last.part.backend;
  const auto n_wanted = static_cast<int64_t>(wanted_rows_.size());
  for (int64_t begin = 0; begin < n_wanted; begin += kMaxLogitRows) {
    const int64_t count = std::min(kMaxLogitRows, n_wanted - begin);
    if (last.batch.repeats < 0) {
      const Rows hidden = last.activations.wanted.first(count);
      backend.gather(last.activations.x, wanted_rows_.data() + begin, hidden);
      run_head(last, hidden);
    }
    backend.read_rows(last.activations.logits.first(count), wanted_outs_.data() + begin);
  }
}

// Every row is scored in one go, in a buffer that the layers are done with.
void Logits::compute_terms(const Stage& last, const std::vector<Chunk>& chunks) {
  Backend& backend = *last.part.backend;
  wanted_rows_.clear();
  targets_.clear();
  int64_t first_row = 0;
  for (const Chunk& chunk : chunks) {
    for (int64_t i = chunk.first_wanted; i < chunk.first_wanted + chunk.n_terms; ++i) {
      wanted_rows_.push_back(first_row + i);
      targets_.push_back(chunk.tokens[i + 1]);
    }
    first_row += chunk.count;
  }
  if (targets_.empty()) return;
  terms_.resize(targets_.size());
  const Rows hidden = last.activations.attn_in.first(static_cast<int64_t>(targets_.size()));
  backend.gather(last.activations.x, wanted_rows_.data(), hidden);
  backend.layer_norm(norm_parameters(spec_, weights_.final_norm), hidden, hidden);
  backend.score(weights_.head, hidden, targets_.data(), terms_.data());
  const SoftmaxTerm* term = terms_.data();
  for (const Chunk& chunk : chunks) {
    std::copy_n(term, chunk.n_terms, chunk.terms);
    term += chunk.n_terms;
  }
}

}  // namespace pythia_rt
