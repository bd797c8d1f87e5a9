#include "timing/workload.h"

#include <chrono>

namespace pythia_rt {

double Workload::time(ThreadPool& pool, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  double elapsed = 0;
  int64_t passes = 0;
  do {
    pass(pool, next_++);
    ++passes;
    elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  } while (elapsed < seconds);
  return elapsed / static_cast<double>(passes);
}

}  // namespace pythia_rt
