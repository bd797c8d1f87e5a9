// Locks of what Python's threads share.
#pragma once

#include <mutex>

#include "base/error.h"
#include "base/fork_safe_mutex.h"

namespace pythia_rt {

// Throws std::runtime_error where the thread that was using `what` is in another process: it may
// have left it half changed.
inline void check_not_orphaned(const ForkSafeMutex& mutex, const char* what) {
  if (mutex.is_orphaned()) {
    throw_failed("this process was forked while another thread was using the ", what,
                 ": make a new one");
  }
}

// Holds it, or throws std::runtime_error where another thread does.
inline std::unique_lock<ForkSafeMutex> claim(ForkSafeMutex& mutex, const char* what) {
  check_not_orphaned(mutex, what);
  std::unique_lock lock(mutex, std::try_to_lock);
  if (!lock.owns_lock()) {
    throw_failed("the ", what, " is running on another thread: make one each");
  }
  return lock;
}

}  // namespace pythia_rt
