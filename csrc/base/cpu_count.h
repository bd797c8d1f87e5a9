// How many threads are worth starting.
#pragma once

#include <set>
#include <string>

namespace pythia_rt {

// The number of physical cores that this process may really use: processors of its affinity mask,
// those that share a core counted once, and no more than the cgroup's quota of processor time.
// Where cores differ, the fast ones alone: the others would use the memory's bandwidth up and add
// little. At least 1.
int default_thread_count();

// How many cores `processors` (as the system numbers them) are to default_thread_count, by what
// `folder` says of them, which is /sys/devices or looks like it.
int count_fast_cores(const std::string& folder, const std::set<int>& processors);

}  // namespace pythia_rt
