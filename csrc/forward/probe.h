// Looks into a pass and may change it.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "forward/points.h"

namespace pythia_rt {

// Consecutive rows of a pass that are of one text.
struct TextRows {
  int64_t text;  // the number that whoever made the probe gave it
  int64_t first_row;
  int64_t count;
  int64_t first_position;  // of first_row in the text
};

// What attention has been given, rotated, and what it has made of it.
struct AttentionRows {
  HeadLayout heads;
  Scoring scoring;
  Rows q, k, v;
  Rows z;
};

// A pass with a probe gives the bits of one without, if nothing is written. What is fused where
// nobody looks runs in steps: those of the places that are wanted, and no others.
class Probe {
 public:
  virtual ~Probe() = default;

  // The layers that are to run, in this order, each once at most; null: all of them.
  virtual const std::vector<int64_t>* layers() const { return nullptr; }

  // Whether start() says what the layers begin with, and nothing is embedded.
  virtual bool starts() const { return false; }
  virtual void start(Backend& /*backend*/, Rows /*x*/) {}

  // Whoever runs a pass says whose its rows are.
  virtual void begin(const std::vector<TextRows>& rows) = 0;

  // Whether at() is to be called; asked more than once.
  virtual bool wants(const Place& place) = 0;

  // The pass has come to a place that is wanted. Its values, a row for each of the pass's, may be
  // read and written; the pass goes on with what is there then. May throw: then nothing has been
  // appended.
  virtual void at(const Place& place, Backend& backend, Rows values) = 0;

  // The same of scores and pattern, of which one is wanted: they are nowhere, but what they are
  // made of is, and what they lead to may be written.
  virtual void attended(int64_t layer, Backend& backend, const AttentionRows& rows) = 0;
};

}  // namespace pythia_rt
