// Sleeping on a number in memory: what std::atomic::wait is in C++20.
//
// Not condition variables: to destroy one in a forked child waits for ever for the threads that
// slept on it, which the child does not have; and those of glibc before 2.41 can lose a wake-up
// (its bug 25847).
#pragma once

#include <atomic>
#include <cstdint>

namespace pythia_rt {

// Returns when woken, at once if the word is not `value`, or for no reason: check in a loop.
void futex_wait(const std::atomic<uint32_t>& word, uint32_t value);

// Wakes up to `count` threads that sleep on the word. Change it first.
void futex_wake(const std::atomic<uint32_t>& word, int64_t count);

}  // namespace pythia_rt
