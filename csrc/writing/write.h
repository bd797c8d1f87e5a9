// Passes over texts that are being written, and prompts that are being read, together.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "base/function_ref.h"
#include "writing/pace.h"
#include "writing/writer.h"

namespace pythia_rt {

struct WriteOptions {
  double seconds;           // after which no second pass begins
  int64_t max_rows;         // of a pass
  std::atomic<bool>* wake;  // set by another thread: nor does it then; or null
};

// Runs passes, at least one, until a writer wants attention, the time is over or somebody wakes it.
// In each, texts that are being written come first, with guesses where they pay, then prompts in
// the order given, in what rows `pace` has left for them. Returns the indices of writers that want
// attention.
//
// Throws std::invalid_argument, before anything is run, for writers of different models or two of
// one sequence; NoRoom where the caches' pages do not suffice, and what `interrupt` throws: then
// the pass at hand was not run, and can be.
std::vector<size_t> write(const std::vector<Writer*>& writers, Pace& pace,
                          const WriteOptions& options, FunctionRef<void()> interrupt);

}  // namespace pythia_rt
