// A pool of threads for short parallel regions.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/forks.h"
#include "base/function_ref.h"
#include "base/work_shares.h"

namespace pythia_rt {

// run(n, task) calls task(i, worker) once for each i in [0, n) and returns when all are done.
// The calling thread works too, so a pool of 1 has no thread of its own. Tasks are handed out one
// by one from a counter: a thread that was held up takes fewer, and one that comes when all have
// been taken is not waited for. After a region the workers spin for a tenth of a millisecond, so
// that regions in a row, and tokens, cost no system call, and then sleep. Where another process
// takes a worker's processor in the middle of a task, the caller, once it has nothing else to do,
// lets it finish on its own (Linux); a worker that the system puts on the caller's processor leaves
// it. In a child made by fork() the pool works alone, and may be destroyed. One region at a time:
// calls from several threads must be serialised by the owner.
class ThreadPool {
 public:
  using Task = FunctionRef<void(int64_t index, int worker)>;
  using PieceTask = FunctionRef<void(const Piece& piece, int worker)>;

  explicit ThreadPool(int n_threads);  // throws std::invalid_argument unless 1 <= n_threads <= 1024
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int n_threads() const { return static_cast<int>(threads_.size()) + 1; }

  // The first exception that a task throws is thrown here, after the region has ended.
  void run(int64_t n_tasks, Task task);

  // The same for long work on consecutive units, one or two loads of them, each thread on a stretch
  // of its own (base/work_shares.h). `grain` units belong together.
  void share(std::initializer_list<Load> loads, int64_t grain, PieceTask task);

 private:
  using Body = FunctionRef<void(int worker)>;  // of a region, what each worker does

  struct alignas(64) Member {
    std::atomic<int> processor{kOutside};  // where it entered the region, while it is inside
    int64_t nanoseconds = 0;               // of processor time, when the caller last looked
    int home = kOutside;                   // where it was last that was not the caller's processor
    int fetched_from = kOutside;           // the processor that the caller fetched it from
  };
  static constexpr int kOutside = -1;

  void work(int worker);
  void region(int64_t n_useful, Body body);
  void take_part(int worker);
  void take_pieces(int worker, std::initializer_list<Load> loads, PieceTask task);
  void stop();
  bool is_alone() const;  // no workers, or a forked child that has lost them
  void wait_for_workers();
  void fetch_displaced_workers();
  void send_back_workers();
  int make_way(int worker);              // returns the processor that it is on then
  bool enter(Member& member, int here);  // false: the region is over
  void leave(Member& member);
  bool wait_for_region(uint32_t* seen);  // false: the pool stops

  std::vector<std::thread> threads_;
  std::unique_ptr<Member[]> members_;  // of the pool, beside each thread
  const uint32_t forks_at_start_ = fork_count();
  const Body* body_ = nullptr;
  WorkShares shares_;
  alignas(64) std::atomic<uint32_t> region_{0};  // number of regions started so far, modulo 2^32
  std::atomic<uint32_t> n_asleep_{0};            // workers that wait for the next
  std::atomic<int> caller_processor_{kOutside};
  alignas(64) std::atomic<uint32_t> door_{0};  // of the region: open or not, workers inside
  std::atomic<bool> is_waiting_{false};        // the caller, asleep, for the last of them
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;  // of error_
  std::exception_ptr error_;
};

}  // namespace pythia_rt
