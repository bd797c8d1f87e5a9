// Where the time of a pass goes: operation by operation of a backend, and in those of the CPU by
// kernel. A model that has such a backend computes the same; others know nothing of it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "kernels/table.h"

namespace pythia_rt {

// One operation of a backend, or in it one kernel, whose name then follows the operation's.
struct TracedRegion {
  const char* operation;
  const char* kernel;  // or null
  int64_t calls;
  int64_t nanoseconds;  // of the calling thread
};

struct Trace {
  std::vector<TracedRegion> regions;
  int64_t begin = 0;  // of the first operation and end of the last, by the monotonic clock
  int64_t end = 0;
  size_t allocated = 0;  // bytes
};

// What this thread's operations on traced backends have come to since it asked last.
Trace take_trace();

// The CPU's backend with these kernels, traced. The kernels must be there for ever.
std::unique_ptr<Backend> make_traced_backend(const KernelTable& kernels, int n_threads);

}  // namespace pythia_rt
