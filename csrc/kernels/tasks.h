// How the work of kernels is cut into tasks for the threads of a pool.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/rounding.h"
#include "base/thread_pool.h"

namespace pythia_rt {

// Blocks of a matrix that one thread multiplies at a time, at least.
constexpr int64_t kBlocksTogether = 4;

// Calls function(begin, end) over `count` rows of `width` values, on several threads where the work
// is worth it.
template <typename Function>
void each_row(ThreadPool& pool, int64_t count, int64_t width, const Function& function) {
  constexpr int64_t kSmallWork = 16 * 1024;  // values: done before a second thread has started
  const int64_t size = std::max<int64_t>(1, divide_up(kSmallWork, width));
  pool.run(divide_up(count, size),
           [&](int64_t task, int) { function(task * size, std::min(count, (task + 1) * size)); });
}

}  // namespace pythia_rt
