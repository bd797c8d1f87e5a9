// How often this process has been forked off: locks and threads from before a fork are not there.
#pragma once

#include <cstdint>

namespace pythia_rt {

// 0 in the process that loaded the library, one more in each child made by fork(). Never changes
// while more than one thread runs: a child starts with one.
uint32_t fork_count();

}  // namespace pythia_rt
