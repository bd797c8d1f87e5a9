// What the system's scheduler does with a thread. Where it does not say (not on Linux), nothing is
// known and nothing moves.
#pragma once

#include <cstdint>
#include <thread>

namespace pythia_rt {

// The processor that the calling thread is on, or -1.
int current_processor();

// The processor time that a thread has had so far, or -1.
int64_t processor_nanoseconds(std::thread& thread);

// Puts a thread that waits for a processor into another's queue. It may run wherever it might
// before. False if that could not be done.
bool move_to_processor(std::thread& thread, int processor);

}  // namespace pythia_rt
