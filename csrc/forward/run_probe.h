// A probe that says where a run begins and which layers it takes, makes edits and captures.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "forward/captures.h"
#include "forward/editor.h"
#include "forward/pattern_captures.h"
#include "forward/patterns.h"
#include "forward/probe.h"

namespace pythia_rt {

// What is captured is what the pass goes on with, after edits.
class RunProbe : public Probe {
 public:
  // Texts are known by their numbers.
  RunProbe(const Spec& spec, const Weights& weights, Editor editor, Captures captures,
           PatternCaptures pattern_captures)
      : editor_(std::move(editor)),
        captures_(std::move(captures)),
        patterns_(spec, weights),
        pattern_captures_(std::move(pattern_captures)) {}

  void take_layers(std::vector<int64_t> layers) { layers_ = std::move(layers); }
  // What the layers begin with, of each text [tokens][hidden_size], its token number 0 at
  // `first_position`.
  struct Stream {
    const float* rows;
    int64_t first_position;
  };
  void start_with(std::vector<Stream> streams) { streams_ = std::move(streams); }

  Captures& captures() { return captures_; }
  PatternCaptures& pattern_captures() { return pattern_captures_; }

  const std::vector<int64_t>* layers() const override { return layers_ ? &*layers_ : nullptr; }
  bool starts() const override { return !streams_.empty(); }
  void start(Backend& backend, Rows x) override;
  void begin(const std::vector<TextRows>& rows) override;
  bool wants(const Place& place) override {
    return captures_.wants(place) || editor_.wants(place) || pattern_captures_.wants(place);
  }
  void at(const Place& place, Backend& backend, Rows values) override;
  void attended(int64_t layer, Backend& backend, const AttentionRows& rows) override;

 private:
  Editor editor_;
  Captures captures_;
  Patterns patterns_;
  PatternCaptures pattern_captures_;
  std::vector<SeenText> seen_;  // of the texts
  std::optional<std::vector<int64_t>> layers_;
  std::vector<Stream> streams_;
  std::vector<TextRows> rows_;  // of the pass
};

}  // namespace pythia_rt
