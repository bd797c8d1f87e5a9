// How the work of kernels is cut into tasks for the threads of a pool.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/rounding.h"
#include "base/thread_pool.h"

namespace pythia_rt {

// Queries of one head in one task of attention.
constexpr int64_t kQueriesPerTask = 16;

// So many tasks of `size` each; the last may be smaller.
struct Cut {
  int64_t size;
  int64_t count;
};

// The blocks of a matrix. More tasks per thread even out threads that are held up; fewer are read
// from memory faster, since prefetching starts anew with each.
constexpr Cut cut_blocks(int64_t blocks, int n_threads) {
  constexpr int64_t kTasksPerThread = 4;
  const int64_t wanted = n_threads == 1 ? 1 : n_threads * kTasksPerThread;
  const int64_t size = round_up(divide_up(blocks, wanted), 4);
  return {size, divide_up(blocks, size)};
}

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
