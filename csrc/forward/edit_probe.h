// A probe that makes edits, and nothing else.
#pragma once

#include <exception>
#include <utility>
#include <vector>

#include "forward/editor.h"
#include "forward/patterns.h"

namespace pythia_rt {

// What an edit's function throws ends the edits of its text, and is kept: the pass goes on.
class EditProbe : public Probe {
 public:
  // The edits of each text, by its number, null for none; and what it has seen.
  EditProbe(const Spec& spec, const Weights& weights, std::vector<const Edits*> edits,
            std::vector<SeenText*> seen)
      : editor_(std::move(edits), true), patterns_(spec, weights), seen_(std::move(seen)) {}

  const std::exception_ptr& error(int64_t text) const { return editor_.error(text); }

  void begin(const std::vector<TextRows>& rows) override { rows_ = rows; }
  bool wants(const Place& place) override { return editor_.wants(place); }
  void at(const Place& place, Backend& backend, Rows values) override {
    editor_.at(place, backend, values, rows_);
  }
  void attended(int64_t layer, Backend& backend, const AttentionRows& rows) override {
    patterns_.at(layer, backend, rows, rows_, seen_, editor_, nullptr);
  }

 private:
  Editor editor_;
  Patterns patterns_;
  std::vector<SeenText*> seen_;
  std::vector<TextRows> rows_;  // of the pass
};

}  // namespace pythia_rt
