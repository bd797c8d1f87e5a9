// Switching between stacks.
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

// Makes `fiber`, whose stack is there, begin with entry() when it is switched to.
void prepare(Fiber& fiber, void (*entry)());
void forget(Fiber& fiber);

// Leaves `from`, which goes on where it was when somebody switches to it; `last`: it never does.
void switch_fiber(Fiber& from, Fiber& to, bool last = false);

// First thing on a new stack.
void arrive();

// Happens-before edges for the thread sanitizer, named by addresses.
void release_edge(void* edge);
void acquire_edge(void* edge);

}  // namespace pythia_rt::cuda::emulator
