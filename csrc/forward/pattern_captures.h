// Where scores and patterns go that somebody wants, and sums of patterns.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "forward/captures.h"

namespace pythia_rt {

// Of a text, the keys [starts[i], starts[i + 1]) that query i is asked about: positions.
struct Targets {
  std::vector<int64_t> starts;  // [queries + 1]
  std::vector<int64_t> keys;
};

class PatternCaptures {
 public:
  // A text's part of an array: [n_heads][wanted tokens][keys].
  struct Out {
    void* data;
    int64_t n_wanted;
    int64_t n_keys;
  };

  PatternCaptures(int64_t n_heads, bool in_halves, RowSink* sink)
      : n_heads_(n_heads), in_halves_(in_halves), sink_(sink) {}

  // A place of scores or patterns; `index` is told to the sink, without which there is a part for
  // each text, filled with what is where no key is seen.
  void add(const Place& place, size_t index, std::vector<Out> outs) {
    outs_[place] = {index, std::move(outs)};
  }

  // Per layer out [n_heads][queries of all texts]: how much of the pattern is on the targets.
  void set_targets(std::vector<Targets> targets, const std::vector<WantedTokens>& texts);
  void add_sums(int64_t layer, float* out) { sums_[layer] = out; }

  bool wants(const Place& place) const {
    return outs_.count(place) != 0 ||
           (place.point == Point::pattern && sums_.count(place.layer) != 0);
  }
  bool wants_layer(int64_t layer) const { return has_rows(layer) || sums_.count(layer) != 0; }
  // Whether somebody sees its scores or its pattern, not sums alone.
  bool has_rows(int64_t layer) const {
    return outs_.count({Point::scores, layer}) != 0 || outs_.count({Point::pattern, layer}) != 0;
  }

  // Of each pass, the rows that are wanted.
  void begin(std::vector<WantedRows> wanted) { wanted_ = std::move(wanted); }
  // Before and after the rows of a text are taken at a place, `n_keys` wide.
  void open(const Place& place, int64_t text, int64_t n_keys);
  void deliver();

  // A row [n_heads][n_keys] of that text. May be called by several threads for rows of their own.
  void take(const Place& place, int64_t position, const float* row, int64_t n_keys) const;

 private:
  struct Outs {
    size_t index;
    std::vector<Out> outs;
  };

  void copy(const float* row, int64_t n_keys, void* out, int64_t first) const;

  int64_t n_heads_;
  bool in_halves_;
  RowSink* sink_;
  std::vector<WantedRows> wanted_;
  std::map<Place, Outs> outs_;
  std::map<int64_t, float*> sums_;
  std::vector<Targets> targets_;
  std::vector<int64_t> first_positions_;  // of the texts' queries
  std::vector<int64_t> first_queries_;    // among those of all texts; and how many there are

  // Of the text and place at hand.
  int64_t text_ = 0;
  std::map<int64_t, int64_t> row_of_;  // of its wanted positions: where in `out_`
  Out out_{};
};

}  // namespace pythia_rt
