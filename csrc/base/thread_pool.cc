#include "base/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/forks.h"
#include "base/futex.h"
#include "base/scheduling.h"

namespace pythia_rt {

namespace {

using Clock = std::chrono::steady_clock;

// For the next region: longer than the gap between two tokens, of which sampling is the most,
// shorter than anybody notices in a profile of an idle process.
constexpr std::chrono::microseconds kPatience(100);
// For others to finish theirs, before they are suspected to have lost their processors.
constexpr std::chrono::microseconds kPatienceWithOthers(25);
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

// Waits, on its processor, until it is so or patience ends. A pause takes from one to 140 cycles,
// depending on the processor.
template <typename Condition>
bool spin_until(const Condition& is_so, Clock::duration patience) {
  constexpr int kPauses = 16;  // between two looks at the clock
  const Clock::time_point begin = Clock::now();
  do {
    for (int i = 0; i < kPauses; ++i) {
      if (is_so()) return true;
      pause();
    }
  } while (Clock::now() - begin < patience);
  return false;
}

int checked(int n_threads) {
  if (n_threads < 1 || n_threads > kMaxThreads) {
    throw_invalid("the number of threads must be between 1 and ", kMaxThreads, ", not ", n_threads);
  }
  return n_threads;
}

}  // namespace

ThreadPool::ThreadPool(int n_threads) : shares_(checked(n_threads)) {
  threads_.reserve(static_cast<size_t>(n_threads - 1));
  members_.reset(new Member[static_cast<size_t>(n_threads - 1)]);
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

void ThreadPool::region(int64_t n_useful, Body body) {
  body_ = &body;  // nobody reads it while the door is closed
  caller_processor_.store(current_processor(), std::memory_order_relaxed);
  door_.store(kOpen, std::memory_order_release);
  region_.fetch_add(1);  // sequentially consistent with n_asleep_: either the worker sees the new
                         // region before it sleeps, or we see it sleep
  if (n_asleep_.load() > 0)
    futex_wake(region_, std::min(n_useful - 1, static_cast<int64_t>(threads_.size())));
  take_part(0);
  door_.fetch_and(~kOpen);
  wait_for_workers();
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::take_part(int worker) {
  try {
    (*body_)(worker);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

void ThreadPool::run(int64_t n_tasks, Task task) {
  if (n_tasks <= 1 || is_alone()) {
    for (int64_t index = 0; index < n_tasks; ++index) task(index, 0);
    return;
  }
  alignas(64) std::atomic<int64_t> next{0};
  region(n_tasks, [&](int worker) {
    try {
      for (;;) {
        const int64_t index = next.fetch_add(1, std::memory_order_relaxed);
        if (index >= n_tasks) return;
        task(index, worker);
      }
    } catch (...) {
      next.store(n_tasks, std::memory_order_relaxed);
      throw;
    }
  });
}

void ThreadPool::share(std::initializer_list<Load> loads, int64_t grain, PieceTask task) {
  const auto n_loads = static_cast<int>(loads.size());
  if (n_loads > WorkShares::kMaxLoads) throw_invalid("a region has at most two loads");
  const int64_t grains = is_alone() ? 0 : shares_.deal(loads.begin(), n_loads, grain);
  if (grains <= 1) {
    for (int load = 0; load < n_loads; ++load) task({load, 0, loads.begin()[load].units}, 0);
    return;
  }
  region(grains, [&](int worker) { take_pieces(worker, loads, task); });
  shares_.learn();
}

void ThreadPool::take_pieces(int worker, std::initializer_list<Load> loads, PieceTask task) {
  Piece piece{};
  if (!shares_.take(worker, &piece)) return;
  const Clock::time_point start = Clock::now();
  int64_t cost = 0;
  try {
    do {
      task(piece, worker);
      cost += (piece.end - piece.begin) * loads.begin()[piece.load].cost;
    } while (shares_.take(worker, &piece));
  } catch (...) {
    shares_.give_up();
    throw;
  }
  const std::chrono::duration<double> seconds = Clock::now() - start;
  shares_.note(worker, cost, seconds.count());
}

void ThreadPool::wait_for_workers() {
  const auto are_done = [&] { return door_.load(std::memory_order_acquire) == 0; };
  if (spin_until(are_done, kPatienceWithOthers)) return;
  fetch_displaced_workers();
  for (int yields = 0; yields < kYields; ++yields) {
    if (are_done()) return send_back_workers();
    std::this_thread::yield();
  }
  is_waiting_.store(true);
  while (const uint32_t inside = door_.load()) futex_wait(door_, inside);
  is_waiting_.store(false);
  send_back_workers();
}

// A worker may have lost its processor to another process in the middle of a piece. It would get it
// back after some milliseconds, dozens of regions; on ours, which we do not need now, it is done
// within microseconds.
void ThreadPool::fetch_displaced_workers() {
  const int here = current_processor();
  for (size_t i = 0; i < threads_.size(); ++i) {
    const bool is_inside = members_[i].processor.load(std::memory_order_relaxed) != kOutside;
    members_[i].nanoseconds = is_inside ? processor_nanoseconds(threads_[i]) : -1;
  }
  const auto are_done = [&] { return door_.load(std::memory_order_acquire) == 0; };
  if (spin_until(are_done, kPatienceWithOthers)) return;
  for (size_t i = 0; i < threads_.size(); ++i) {
    Member& member = members_[i];
    const int there = member.processor.load(std::memory_order_relaxed);
    if (there == kOutside || there == here || member.nanoseconds < 0) continue;
    if (processor_nanoseconds(threads_[i]) != member.nanoseconds) continue;  // it runs
    if (move_to_processor(threads_[i], here)) member.fetched_from = there;
  }
}

// Here they would be in our way. There they join in again when their turn comes.
void ThreadPool::send_back_workers() {
  for (size_t i = 0; i < threads_.size(); ++i) {
    Member& member = members_[i];
    if (member.fetched_from == kOutside) continue;
    move_to_processor(threads_[i], std::exchange(member.fetched_from, kOutside));
  }
}

// The scheduler likes to put a worker that it wakes, or that has to share its processor with
// another process, into the caller's queue, where it takes from the caller what it gives.
int ThreadPool::make_way(int worker) {
  Member& member = members_[static_cast<size_t>(worker) - 1];
  const int here = current_processor();
  if (here != caller_processor_.load(std::memory_order_relaxed)) {
    member.home = here;
  } else if (member.home != kOutside && member.home != here) {
    move_to_processor(threads_[static_cast<size_t>(worker) - 1], member.home);
    return current_processor();
  }
  return here;
}

bool ThreadPool::enter(Member& member, int here) {
  uint32_t door = door_.load(std::memory_order_relaxed);
  while ((door & kOpen) != 0) {
    if (!door_.compare_exchange_weak(door, door + 1, std::memory_order_acquire)) continue;
    member.processor.store(here, std::memory_order_relaxed);
    return true;
  }
  return false;
}

void ThreadPool::leave(Member& member) {
  member.processor.store(kOutside, std::memory_order_relaxed);
  // As in region(): either the last one sees that the caller sleeps, or the caller sees the zero.
  // The pool outlives this: its destructor joins us.
  if (door_.fetch_sub(1) == 1 && is_waiting_.load()) futex_wake(door_, 1);
}

bool ThreadPool::wait_for_region(uint32_t* seen) {
  const auto is_new = [&] { return region_.load(std::memory_order_acquire) != *seen; };
  if (!spin_until(is_new, kPatience)) {
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
    Member& member = members_[static_cast<size_t>(worker) - 1];
    const int here = make_way(worker);
    if (!enter(member, here)) continue;  // too late
    take_part(worker);
    leave(member);
  }
}

}  // namespace pythia_rt
