// A probe that copies: what is at places of a pass into arrays, and arrays into places.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "forward/probe.h"

namespace pythia_rt {

// Arrays have a row for each token that the caller asks about, in whatever passes these are run.
// They are the caller's memory.
class ArrayProbe : public Probe {
 public:
  // `n_tokens`: how many, of all sequences.
  explicit ArrayProbe(int64_t n_tokens) : n_tokens_(n_tokens) {}

  // out: [n_tokens][width]: what the pass goes on with, after any replacement.
  void capture(const Place& place, float* out) { places_[place].out = out; }

  // The tokens of these numbers get the rows of values: [numbers][width].
  void replace(const Place& place, const std::vector<int64_t>& numbers, const float* values);

  void begin(const std::vector<int64_t>& numbers) override { numbers_ = numbers; }
  bool wants(const Place& place) override { return places_.count(place) != 0; }
  void at(const Place& place, Backend& backend, Rows values) override;

 private:
  struct Copies {
    float* out = nullptr;           // [n_tokens][width], or null
    const float* values = nullptr;  // [replaced tokens][width], or null
    std::vector<int64_t> row_of;    // [n_tokens], of values; -1: the token's stay as they are
  };

  void replace_rows(const Copies& copies, Backend& backend, Rows values);

  int64_t n_tokens_;
  std::map<Place, Copies> places_;
  std::vector<int64_t> numbers_;  // of the tokens of the pass's rows; -1: none of the caller's
  std::vector<float> rows_;       // of the pass, close together
  std::vector<float*> outs_;      // where the pass's rows go
  std::vector<float> unasked_;    // where those go that are none of the caller's: [width]
};

}  // namespace pythia_rt
