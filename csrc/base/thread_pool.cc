#include "base/thread_pool.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/forks.h"
#include "base/futex.h"

namespace pythia_rt {

namespace {

// Some tens of microseconds: longer than the gap between two regions of one token, shorter than
// anybody notices in a profile of an idle process.
constexpr int kSpins = 1000;
// Who waits for the others to finish first gives its processor away as often as this.
constexpr int kYields = 1000;
constexpr int kMaxThreads = 1024;

// The door's highest bit: workers may enter. Below it, how many are inside.
constexpr uint32_t kOpen = 0x80000000u;

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int n_threads) {
  if (n_threads < 1 || n_threads > kMaxThreads) {
    throw_invalid("the number of threads must be between 1 and ", kMaxThreads, ", not ", n_threads);
  }
  threads_.reserve(static_cast<size_t>(n_threads - 1));
  try {
    for (int worker = 1; worker < n_threads; ++worker) {
      threads_.emplace_back([this, worker] { work(worker); });
    }
  } catch (const std::system_error&) {
    const size_t started = threads_.size() + 1;
    stop();
    throw_failed("cannot start ", n_threads, " threads (", started, " were possible)");
  }
}

ThreadPool::~ThreadPool() { stop(); }

// A child made by fork() has the pool's memory but none of its threads. There it works alone
// instead of waiting for ever for workers that do not exist.
bool ThreadPool::is_alone() const { return threads_.empty() || fork_count() != forks_at_start_; }

void ThreadPool::stop() {
  if (threads_.empty()) return;
  if (is_alone()) {
    // Handles of threads that a fork left behind can neither be joined nor detached: the memory
    // that they name may by now belong to a thread that the child started. They are leaked.
    static_cast<void>(new std::vector<std::thread>(std::move(threads_)));
    return;
  }
  stopping_.store(true);
  region_.fetch_add(1);
  futex_wake(region_, static_cast<int64_t>(threads_.size()));
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run(int64_t n_tasks, Task task) {
  if (n_tasks <= 1 || is_alone()) {
    for (int64_t index = 0; index < n_tasks; ++index) task(index, 0);
    return;
  }
  task_ = &task;  // nobody reads these while the door is closed
  n_tasks_ = n_tasks;
  next_task_.store(0, std::memory_order_relaxed);
  door_.store(kOpen, std::memory_order_release);
  region_.fetch_add(1);  // sequentially consistent with n_asleep_: either the worker sees the new
                         // region before it sleeps, or we see it sleep
  if (n_asleep_.load() > 0)
    futex_wake(region_, std::min(n_tasks - 1, static_cast<int64_t>(threads_.size())));
  take_tasks(0);
  door_.fetch_and(~kOpen);
  wait_for_workers();
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::take_tasks(int worker) {
  try {
    for (;;) {
      const int64_t index = next_task_.fetch_add(1, std::memory_order_relaxed);
      if (index >= n_tasks_) return;
      (*task_)(index, worker);
    }
  } catch (...) {
    next_task_.store(n_tasks_, std::memory_order_relaxed);
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

void ThreadPool::wait_for_workers() {
  for (int spins = 0; spins < kSpins; ++spins) {
    if (door_.load(std::memory_order_acquire) == 0) return;
    pause();
  }
  // A worker may have lost its processor: we must not keep it from ours.
  for (int yields = 0; yields < kYields; ++yields) {
    if (door_.load(std::memory_order_acquire) == 0) return;
    std::this_thread::yield();
  }
  is_waiting_.store(true);
  while (const uint32_t inside = door_.load()) futex_wait(door_, inside);
  is_waiting_.store(false);
}

bool ThreadPool::enter() {
  uint32_t door = door_.load(std::memory_order_relaxed);
  while ((door & kOpen) != 0) {
    if (door_.compare_exchange_weak(door, door + 1, std::memory_order_acquire)) return true;
  }
  return false;
}

void ThreadPool::leave() {
  // As in run(): either the last one sees that the caller sleeps, or the caller sees the zero. The
  // pool outlives this: its destructor joins us.
  if (door_.fetch_sub(1) == 1 && is_waiting_.load()) futex_wake(door_, 1);
}

bool ThreadPool::wait_for_region(uint32_t* seen) {
  bool is_new = false;
  for (int spins = 0; spins < kSpins && !is_new; ++spins) {
    is_new = region_.load(std::memory_order_acquire) != *seen;
    if (!is_new) pause();
  }
  if (!is_new) {
    n_asleep_.fetch_add(1);
    while (region_.load() == *seen) futex_wait(region_, *seen);
    n_asleep_.fetch_sub(1);
  }
  *seen = region_.load();
  return !stopping_.load();
}

void ThreadPool::work(int worker) {
  uint32_t seen = 0;
  while (wait_for_region(&seen)) {
    if (!enter()) continue;  // too late
    take_tasks(worker);
    leave();
  }
}

}  // namespace pythia_rt
