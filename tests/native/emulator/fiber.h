// Switching between stacks, and what the sanitizers must hear of it.
#pragma once

#include <cstddef>

namespace pythia_rt::cuda::emulator {

// The stack of a fiber, or of whoever started them, while it does not run.
struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;  // lowest address
  size_t stack_bytes = 0;
  void* sanitizer = nullptr;  // the thread sanitizer's name for it
};

// The caller's own stack.
void adopt_current(Fiber& fiber);

// Makes `fiber`, whose stack is there, begin with entry() when it is switched to. Its first frame
// stands `offset` bytes, a multiple of 16, below the end of the stack.
void prepare(Fiber& fiber, size_t offset, void (*entry)());

// The fiber was left in the middle and does not go on: it can be prepared again.
void abandon(Fiber& fiber);

// Leaves `from`, which goes on where it was when somebody switches to it; `last`: it never does.
void switch_fiber(Fiber& from, Fiber& to, bool last = false);

// First thing on a new stack.
void arrive();

// Happens-before edges for the thread sanitizer, named by addresses. A switch is none.
#if defined(PYTHIA_RT_EMULATOR_TSAN)
void release_edge(void* edge);
void acquire_edge(void* edge);
// As if `fiber` released it; the caller is `self`.
void release_edge_of(Fiber& fiber, Fiber& self, void* edge);
#else
inline void release_edge(void*) {}
inline void acquire_edge(void*) {}
inline void release_edge_of(Fiber&, Fiber&, void*) {}
#endif

}  // namespace pythia_rt::cuda::emulator
