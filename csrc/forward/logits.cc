#include "forward/logits.h"

#include <algorithm>

#include "forward/norm.h"

namespace pythia_rt {

void Logits::plan(const std::vector<Chunk>& chunks) {
  wanted_rows_.clear();
  wanted_outs_.clear();
  is_normed_ = false;
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

void Logits::record(const Workspace& last) const {
  if (!wanted_rows_.empty()) run_head(last, last.activations.x.first(last.batch.rows()));
}

void Logits::watch(const Workspace& last, Probe& probe) {
  if (!probe.wants({Point::final_norm})) return;
  const int64_t count = last.batch.rows();
  const Rows normed = last.activations.mlp_in.first(count);
  last.stage.backend->norm(norm_parameters(spec_, weights_.final_norm),
                           last.activations.x.first(count), normed);
  probe.at({Point::final_norm}, *last.stage.backend, normed);
  is_normed_ = true;
}

// The logits of as many rows as `hidden` has, which are normed yet or not.
void Logits::run_head(const Workspace& last, Rows hidden) const {
  const Rows logits = last.activations.logits.first(hidden.count);
  if (needs_norm()) {
    const Rows normed = last.activations.wanted.first(hidden.count);
    last.stage.backend->norm(norm_parameters(spec_, weights_.final_norm), hidden, normed);
    hidden = normed;
  }
  last.stage.backend->linear({&weights_.head, hidden, logits, Epilogue::store});
}

// Rows after the last layer, normed if watch() has normed them.
void Logits::gather(const Workspace& last, const int64_t* rows, Rows out) const {
  const Rows& in = is_normed_ ? last.activations.mlp_in : last.activations.x;
  last.stage.backend->gather(in, rows, out);
}

// The head is the widest matrix of a small model: it runs for the rows that are asked for, a few
// at a time, and its result goes straight to the caller's memory.
void Logits::compute(const Workspace& last) {
  Backend& backend = *last.stage.backend;
  const auto n_wanted = static_cast<int64_t>(wanted_rows_.size());
  for (int64_t begin = 0; begin < n_wanted; begin += kMaxLogitRows) {
    const int64_t count = std::min(kMaxLogitRows, n_wanted - begin);
    if (last.batch.repeats < 0) {
      const Rows hidden = last.activations.wanted.first(count);
      gather(last, wanted_rows_.data() + begin, hidden);
      run_head(last, hidden);
    }
    backend.read_rows(last.activations.logits.first(count), wanted_outs_.data() + begin);
  }
}

// Every row is scored in one go, in a buffer that the layers are done with.
void Logits::compute_terms(const Workspace& last, const std::vector<Chunk>& chunks) {
  Backend& backend = *last.stage.backend;
  wanted_rows_.clear();
  targets_.clear();
  int64_t first_row = 0;
  for (const Chunk& chunk : chunks) {
    for (int64_t i = chunk.first_wanted; i < chunk.first_wanted + chunk.n_terms; ++i) {
      wanted_rows_.push_back(first_row + i);
      targets_.push_back(i + 1 < chunk.count ? chunk.tokens[i + 1] : chunk.next);
    }
    first_row += chunk.count;
  }
  if (targets_.empty()) return;
  terms_.resize(targets_.size());
  const Rows hidden = last.activations.attn_in.first(static_cast<int64_t>(targets_.size()));
  gather(last, wanted_rows_.data(), hidden);
  if (needs_norm()) {
    backend.norm(norm_parameters(spec_, weights_.final_norm), hidden, hidden);
  }
  backend.score(weights_.head, hidden, targets_.data(), terms_.data());
  const SoftmaxTerm* term = terms_.data();
  for (const Chunk& chunk : chunks) {
    std::copy_n(term, chunk.n_terms, chunk.terms);
    term += chunk.n_terms;
  }
}

}  // namespace pythia_rt
