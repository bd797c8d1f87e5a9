// Scores and patterns of attention, which its kernels never have: computed anew, in plain loops.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "forward/editor.h"
#include "forward/pattern_captures.h"
#include "forward/probe.h"
#include "model/spec.h"
#include "model/weights.h"

namespace pythia_rt {

// Of a text, by layer, what its queries see: rotated keys [positions][n_kv_heads * head_dim], and
// values where they are to be mixed anew.
struct SeenKeys {
  std::vector<float> keys;
  std::vector<float> values;
};
using SeenText = std::map<int64_t, SeenKeys>;

// Each row is computed by itself: it does not depend on the rows of a pass. Where somebody edits
// scores or pattern of a text, its values are mixed anew; elsewhere nothing is written.
class Patterns {
 public:
  Patterns(const Spec& spec, const Weights& weights) : spec_(spec), weights_(weights) {}

  // `seen` are of the texts by number, which have been seen from their beginning; `captures`
  // may be null.
  void at(int64_t layer, Backend& backend, const AttentionRows& rows,
          const std::vector<TextRows>& texts, const std::vector<SeenText*>& seen_texts,
          Editor& editor, PatternCaptures* captures);

 private:
  struct Task;  // one text's rows

  // `left_out` of the keys is added to them, null for nothing.
  void remember(SeenKeys& seen, const float* left_out, Backend& backend, const AttentionRows& rows,
                const TextRows& text, bool with_values);
  void compute(const Task& task);
  void score_row(const Task& task, const float* query, int64_t row, float* scores) const;
  void mix_row(const Task& task, int64_t row, float* z) const;
  void edit(const Task& task, const std::vector<Edit>* edits, float hidden);

  const Spec& spec_;
  const Weights& weights_;
  std::vector<float> scores_;  // [rows][n_heads][keys] of a text, later its pattern
  std::vector<float> chosen_;
};

}  // namespace pythia_rt
