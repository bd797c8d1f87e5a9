// A pool of threads for short parallel regions.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "base/forks.h"
#include "base/function_ref.h"

namespace pythia_rt {

// run(n, task) calls task(i, worker) once for each i in [0, n) and returns when all are done.
// The calling thread works too, so a pool of 1 has no thread of its own. Tasks are handed out one
// by one from a counter: a thread that was held up takes fewer, and one that comes when all have
// been taken is not waited for. After a region the workers spin for some tens of microseconds, so
// that regions in a row cost no system call, and then sleep. In a child made by fork() the pool
// works alone, and may be destroyed.
// One region at a time: calls from several threads must be serialised by the owner.
class ThreadPool {
 public:
  using Task = FunctionRef<void(int64_t index, int worker)>;

  explicit ThreadPool(int n_threads);  // throws std::invalid_argument unless 1 <= n_threads <= 1024
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int n_threads() const { return static_cast<int>(threads_.size()) + 1; }

  // The first exception that a task throws is thrown here, after the region has ended.
  void run(int64_t n_tasks, Task task);

 private:
  void work(int worker);
  void take_tasks(int worker);
  void stop();
  bool is_alone() const;  // no workers, or a forked child that has lost them
  void wait_for_workers();
  bool enter();  // false: the region is over
  void leave();
  bool wait_for_region(uint32_t* seen);  // false: the pool stops

  std::vector<std::thread> threads_;
  const uint32_t forks_at_start_ = fork_count();
  const Task* task_ = nullptr;
  int64_t n_tasks_ = 0;
  alignas(64) std::atomic<int64_t> next_task_{0};
  alignas(64) std::atomic<uint32_t> region_{0};  // number of regions started so far, modulo 2^32
  std::atomic<uint32_t> n_asleep_{0};            // workers that wait for the next
  alignas(64) std::atomic<uint32_t> door_{0};    // of the region: open or not, workers inside
  std::atomic<bool> is_waiting_{false};          // the caller, asleep, for the last of them
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;  // of error_
  std::exception_ptr error_;
};

}  // namespace pythia_rt
