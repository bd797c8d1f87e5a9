#include "base/cpu_count.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

#include "base/error.h"

namespace pythia_rt {

namespace {

#if defined(__linux__)

std::string first_line(const std::string& path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  return line;
}

// Processors that share a core print the same list of siblings. 0 where nothing can be learnt.
int count_cores() {
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) != 0) return 0;  // also with over 1,024 processors
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(static_cast<size_t>(cpu), &mask)) continue;
    const std::string siblings =
        first_line(text("/sys/devices/system/cpu/cpu", cpu, "/topology/thread_siblings_list"));
    cores.insert(siblings.empty() ? text("cpu", cpu) : siblings);
  }
  return static_cast<int>(cores.size());
}

// The quota of one cgroup in processors, or infinity. Version 2 writes "quota period" into cpu.max
// ("max" for none), version 1 two files in microseconds (-1 for none).
double quota_of(const std::string& folder) {
  double quota = -1;
  double period = 0;
  std::ifstream limit(folder + "/cpu.max");
  if (!(limit >> quota >> period)) {
    quota = -1;
    std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  }
  return quota > 0 && period > 0 ? quota / period : HUGE_VAL;
}

// The smallest quota on the way from our own cgroup up to the root of the hierarchy. In a
// container the mounted root is already ours, while /proc names a path outside: both are tried.
double cgroup_quota() {
  double quota = HUGE_VAL;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool version_2 = controllers.empty();
    if (!version_2 && controllers.find("cpu") == std::string::npos) continue;
    const std::string root = version_2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/" + controllers;
    std::string path = line.substr(second + 1);
    for (;;) {
      quota = std::min(quota, quota_of(root + path));
      const size_t slash = path.rfind('/');
      if (slash == std::string::npos) break;
      path.erase(slash);
    }
  }
  return quota;
}

#else

int count_cores() { return 0; }
double cgroup_quota() { return HUGE_VAL; }

#endif

}  // namespace

int default_thread_count() {
  int count = count_cores();
  if (count == 0) count = static_cast<int>(std::thread::hardware_concurrency());
  const double quota = cgroup_quota();
  if (quota < count) count = static_cast<int>(std::ceil(quota));
  return std::max(count, 1);
}

}  // namespace pythia_rt
