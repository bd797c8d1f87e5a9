// How many threads are worth starting.
#pragma once

namespace pythia_rt {

// The number of physical cores that this process may really use: processors of its affinity mask,
// those that share a core counted once, and no more than the cgroup's quota of processor time.
// At least 1.
int default_thread_count();

}  // namespace pythia_rt
