#include "base/fork_safe_mutex.h"

#include "base/forks.h"
#include "base/futex.h"

namespace pythia_rt {

namespace {

// The lowest two bits of the word; fork_count() stands above them.
enum Hold : uint32_t { kFree = 0, kHeld = 1, kAwaited = 2 };

uint32_t here(Hold hold) { return fork_count() << 2 | hold; }

bool is_held_here(uint32_t word) {
  return (word & 3) != kFree && (word & ~uint32_t{3}) == here(kFree);
}

}  // namespace

bool ForkSafeMutex::try_lock() {
  uint32_t word = word_.load();
  while (!is_held_here(word)) {
    if (word_.compare_exchange_weak(word, here(kHeld))) return true;
  }
  return false;
}

// Mutex 2 of U. Drepper, "Futexes are tricky": who has slept locks it as awaited, since others may
// sleep still.
void ForkSafeMutex::lock() {
  if (try_lock()) return;
  for (;;) {
    uint32_t word = word_.load();
    if (!is_held_here(word)) {
      if (word_.compare_exchange_weak(word, here(kAwaited))) return;
    } else if (word == here(kAwaited) || word_.compare_exchange_weak(word, here(kAwaited))) {
      futex_wait(word_, here(kAwaited));
    }
  }
}

void ForkSafeMutex::unlock() {
  if (word_.exchange(here(kFree)) == here(kAwaited)) futex_wake(word_, 1);
}

bool ForkSafeMutex::is_orphaned() const {
  const uint32_t word = word_.load();
  return (word & 3) != kFree && !is_held_here(word);
}

}  // namespace pythia_rt
