// The running block: its threads, what they wait for, and its memory. For the emulator's own files;
// everybody else uses scheduler.h.
//
// No heap while threads run: the thread sanitizer would take its locks for order between them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "emulator/fiber.h"
#include "emulator/scheduler.h"
#include "emulator/turns.h"

namespace pythia_rt::cuda::emulator {

enum class State : uint8_t { ready, in_warp, in_block, done };

struct EmulatedThread : Thread {
  Fiber* fiber;
  State state;
  const char* site;  // where it waits
  // What it waits for in its warp.
  Collective purpose;
  unsigned mask;
  uint64_t value;
  int source, width;
  MmaFragment* fragment;
  // What it waits for in its block.
  Barrier barrier;
  int predicate;
  // What comes of either.
  uint64_t result;
};

// Lanes as bits.
struct Warp {
  unsigned waiting;  // for others of the warp
  unsigned exited;   // or never there
};

// A thread's asynchronous copies that have not landed: a ring.
constexpr int kMostCopies = 64;
struct PendingCopies {
  struct Copy {
    void* to;
    const void* from;
    int group;
  };
  Copy copies[kMostCopies];
  int first, end;
  int group;  // of the next copy
};

// Addresses that name happens-before edges, new for every block. Threads that meet release theirs
// when they arrive; the last one acquires all of these and releases those that the others acquire
// when they go on. So nobody sees what another one did after the meeting.
struct Edges {
  struct Meeting {
    char arrived, released;
  };
  Meeting barrier;
  Meeting lanes[kMostThreads];
};

// What is wrong with a kernel.
struct Defect {
  const char* what = nullptr;
  const char* site = nullptr;
  const EmulatedThread* thread = nullptr;
  // If two threads do not fit together.
  const char* other_site = nullptr;
  const EmulatedThread* other_thread = nullptr;
};

struct Block {
  std::vector<EmulatedThread> threads;
  std::vector<PendingCopies> copies;  // one for each thread
  Warp warps[kMostThreads / 32];
  ReadyThreads ready;
  Edges* edges = nullptr;
  int count = 0;    // of the block's threads; `threads` may be longer
  int live = 0;     // that have not exited
  int arrived = 0;  // at the barrier
  Fiber scheduler;
  Defect defect;  // ends the launch

  EmulatedThread& running() { return *static_cast<EmulatedThread*>(current); }
  int index_of(const EmulatedThread& thread) const {
    return static_cast<int>(&thread - threads.data());
  }
  EmulatedThread& thread_at(int i) { return threads[static_cast<size_t>(i)]; }

  // Until none can go on.
  void switch_to_threads();
  void wake(EmulatedThread& thread);
  // Gives the turn away until somebody wakes the thread.
  void wait(EmulatedThread& thread);
  // The thread's last turn is over.
  [[noreturn]] void leave(EmulatedThread& thread);
  // As leave(), and the launch ends.
  [[noreturn]] void fail(const Defect& found);

 private:
  // Whose turn it is now.
  Fiber& next();
};

extern Block block;

// After a thread exited: those who wait at the barrier may be all that are left, and those of its
// warp may wait in vain.
void after_exit(EmulatedThread& thread);

// The block's shared memory, empty, and its edges.
void begin_memory();
void end_memory();

}  // namespace pythia_rt::cuda::emulator
