// A mutex that a child made by fork() can still use, whoever held it in the parent.
#pragma once

#include <atomic>
#include <cstdint>

namespace pythia_rt {

// For std::lock_guard and std::unique_lock. A child has none of its parent's threads, so a
// std::mutex that one of them held when it forked would be waited for until the end of time. This
// one knows in which process it was locked, and counts as free in any other: what it guards must
// bear to be found half done, or is_orphaned() be asked first.
class ForkSafeMutex {
 public:
  void lock();
  bool try_lock();
  void unlock();

  // Whether a thread that this process does not have held it when the process was forked off.
  bool is_orphaned() const;

 private:
  // How many forks old the process is that locked it last, and how it is held there
  // (fork_safe_mutex.cc).
  std::atomic<uint32_t> word_{0};
};

}  // namespace pythia_rt
