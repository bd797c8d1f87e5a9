// The running block: its threads, what they wait for, and its shared memory. For the emulator's own
// files; everybody else uses scheduler.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cuda/emulator/fiber.h"
#include "cuda/emulator/scheduler.h"

namespace pythia_rt::cuda::emulator {

enum class State : uint8_t { ready, in_warp, in_block, done };

// An asynchronous copy that has not landed.
struct PendingCopy {
  void* to;
  const void* from;
  int group;
};
constexpr int kMostCopies = 64;

struct EmulatedThread : Thread {
  Fiber fiber;
  State state;
  uint32_t priority;
  // What it waits for in its warp, and what comes of it.
  Collective purpose;
  unsigned mask;
  uint64_t value, result;
  int source, width;
  const char* site;
  MmaFragment* fragment;
  // What it waits for in its block.
  Barrier barrier;
  int predicate;
  // A ring of copies; no heap, whose locks the thread sanitizer would take for order.
  PendingCopy copies[kMostCopies];
  int copy_group, first_copy, end_copy;
};

// The threads that can go on, in the order of their arrival: a ring, since threads must not use the
// heap.
class ReadyQueue {
 public:
  void clear(int capacity) {
    ring_.resize(static_cast<size_t>(capacity));
    first_ = count_ = 0;
  }
  int count() const { return count_; }
  int& at(int i) { return ring_[static_cast<size_t>(first_ + i) % ring_.size()]; }
  void push(int thread) { at(count_++) = thread; }
  // Those before it move up.
  int take(int i) {
    const int taken = at(i);
    for (; i > 0; --i) at(i) = at(i - 1);
    first_ = static_cast<int>(static_cast<size_t>(first_ + 1) % ring_.size());
    count_ -= 1;
    return taken;
  }

 private:
  std::vector<int> ring_;
  int first_ = 0;
  int count_ = 0;
};

struct Block {
  std::vector<EmulatedThread> threads;
  ReadyQueue ready;  // indices of threads
  int count = 0;     // of the block's threads; `threads` may be longer
  int live = 0;      // that have not exited
  int arrived = 0;   // at the barrier
  Fiber scheduler;
  std::string error;  // ends the launch

  EmulatedThread& running() { return *static_cast<EmulatedThread*>(current); }
  void wake(EmulatedThread& thread);
  // Gives the turn away until somebody wakes the thread.
  void wait(EmulatedThread& thread);
};

extern Block block;

Order order();
uint64_t random_below(uint64_t n);

// "block (0,0,0), thread (5,0,0)" of a thread of the running block.
std::string place_of(const EmulatedThread& thread);

// If somebody exits, those who wait at the barrier may be all that are left.
void release_barrier_if_full();

// Empties the shared memory, for the next block.
void begin_shared_memory();
void end_shared_memory();

}  // namespace pythia_rt::cuda::emulator
