// The fibers of blocks, used again from block to block.
#pragma once

#include "emulator/fiber.h"

namespace pythia_rt::cuda::emulator {

// To the thread sanitizer, a fiber that is used again has seen what it did before. So with it
// neighbouring blocks take theirs from different pools, and more would be too expensive: of all
// pairs of blocks it sees the races of about every other one. Counted from the first block that
// runs, numbers of even and odd numbers of ones alternate with no period (Thue and Morse).
#if defined(PYTHIA_RT_EMULATOR_TSAN)
inline int pool_of_block(unsigned turn) { return __builtin_popcount(turn) % 2; }
#else
inline int pool_of_block(unsigned) { return 0; }
#endif

// The fiber of a block's i-th thread, with a stack; it must be prepared. Below a stack lies a page
// that nobody may touch.
Fiber& fiber_at(int pool, int i);

// How far from its end the i-th stack is to begin. Stacks lie a power of two apart: if they all
// began at their ends, what they hold would compete for few places of the processor's caches.
size_t stack_offset(int i);

}  // namespace pythia_rt::cuda::emulator
