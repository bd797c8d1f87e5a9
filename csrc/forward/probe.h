// Looks into a pass and may change it.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "forward/points.h"

namespace pythia_rt {

// A pass with a probe gives the bits of one without, if nothing is written. What is fused where
// nobody looks runs in steps: those of the places that are wanted, and no others.
class Probe {
 public:
  virtual ~Probe() = default;

  // Whoever runs a pass says of each of its rows which of the caller's tokens it is: its number
  // among those of all sequences, or -1 where the caller asks nothing about it.
  virtual void begin(const std::vector<int64_t>& numbers) = 0;

  // Whether at() is to be called; asked more than once.
  virtual bool wants(const Place& place) = 0;

  // The pass has come to a place that is wanted. Its values, a row for each of the pass's, may be
  // read and written; the pass goes on with what is there then. May throw: then nothing has been
  // appended.
  virtual void at(const Place& place, Backend& backend, Rows values) = 0;
};

}  // namespace pythia_rt
