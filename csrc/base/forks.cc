#include "base/forks.h"

#include <pthread.h>

#include <atomic>

namespace pythia_rt {

namespace {

std::atomic<uint32_t> n_forks{0};

// When the library is loaded, before anything of it can be held across a fork.
[[maybe_unused]] const int registered =
    pthread_atfork(nullptr, nullptr, [] { n_forks.fetch_add(1, std::memory_order_relaxed); });

}  // namespace

uint32_t fork_count() { return n_forks.load(std::memory_order_relaxed); }

}  // namespace pythia_rt
