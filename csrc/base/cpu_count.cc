#include "base/cpu_count.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include "base/error.h"

namespace pythia_rt {

namespace {

// A small file, empty where there is none.
std::string content(const std::string& path) {
  std::string all;
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "r"), &std::fclose);
  if (file == nullptr) return all;
  char part[4096];
  while (const size_t size = std::fread(part, 1, sizeof part, file.get())) all.append(part, size);
  return all;
}

std::string first_line(const std::string& path) {
  const std::string all = content(path);
  return all.substr(0, all.find('\n'));
}

// The whole number at the beginning of the text, behind white space, which it is taken off from.
std::optional<long> take_number(const char*& rest) {
  char* end = nullptr;
  const long number = std::strtol(rest, &end, 10);
  if (end == rest) return std::nullopt;
  rest = end;
  return number;
}

// The numbers of a list like 0-3,8.
std::set<int> numbers_of(const std::string& list) {
  std::set<int> numbers;
  const char* rest = list.c_str();
  while (const std::optional<long> first = take_number(rest)) {
    long last = *first;
    if (*rest == '-') last = take_number(++rest).value_or(last);
    for (long number = *first; number <= last; ++number) numbers.insert(static_cast<int>(number));
    if (*rest != ',') break;
    ++rest;
  }
  return numbers;
}

// Intel's hybrid processors list their performance cores, ARM's say how much each can do, of 1024.
std::set<int> fast_processors(const std::string& folder, const std::set<int>& processors) {
  std::set<int> fast;
  const std::set<int> listed = numbers_of(first_line(folder + "/cpu_core/cpus"));
  std::set_intersection(listed.begin(), listed.end(), processors.begin(), processors.end(),
                        std::inserter(fast, fast.end()));
  if (!fast.empty()) return fast;
  std::map<int, int> capacities;
  int largest = 0;
  for (const int cpu : processors) {
    const std::string path = text(folder, "/system/cpu/cpu", cpu, "/cpu_capacity");
    const std::string line = first_line(path);
    const char* digits = line.c_str();
    const std::optional<long> capacity = take_number(digits);
    if (!capacity) return processors;
    capacities[cpu] = static_cast<int>(*capacity);
    largest = std::max(largest, capacities[cpu]);
  }
  for (const auto& [cpu, capacity] : capacities) {
    if (2 * capacity >= largest) fast.insert(cpu);
  }
  return fast;
}

#if defined(__linux__)

std::set<int> usable_processors() {
  std::set<int> processors;
  cpu_set_t mask;
  // Fails with over 1,024 processors, too.
  if (sched_getaffinity(0, sizeof mask, &mask) != 0) return processors;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(static_cast<size_t>(cpu), &mask)) processors.insert(cpu);
  }
  return processors;
}

// The quota of one cgroup in processors, or infinity. Version 2 writes "quota period" into cpu.max
// ("max" for none), version 1 two files in microseconds (-1 for none).
double quota_of(const std::string& folder) {
  const std::string both = first_line(folder + "/cpu.max");
  const std::string first = first_line(folder + "/cpu.cfs_quota_us");
  const std::string second = first_line(folder + "/cpu.cfs_period_us");
  const char* rest = both.c_str();
  std::optional<long> quota = take_number(rest), period = take_number(rest);
  if (!quota || !period) {
    quota = take_number(rest = first.c_str());
    period = take_number(rest = second.c_str());
  }
  if (quota.value_or(-1) <= 0 || period.value_or(0) <= 0) return HUGE_VAL;
  return static_cast<double>(*quota) / static_cast<double>(*period);
}

// The smallest quota on the way from our own cgroup up to the root of the hierarchy. In a
// container the mounted root is already ours, while /proc names a path outside: both are tried.
double cgroup_quota() {
  double quota = HUGE_VAL;
  const std::string groups = content("/proc/self/cgroup");
  for (size_t begin = 0, end = 0; begin < groups.size(); begin = end + 1) {
    end = std::min(groups.find('\n', begin), groups.size());
    const std::string line = groups.substr(begin, end - begin);
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

int count_cores() { return count_fast_cores("/sys/devices", usable_processors()); }

#else

#if defined(__APPLE__)
// Level 0 is the fastest kind of core.
int count_cores() {
  int count = 0;
  size_t size = sizeof count;
  return sysctlbyname("hw.perflevel0.physicalcpu", &count, &size, nullptr, 0) == 0 ? count : 0;
}
#else
int count_cores() { return 0; }
#endif
double cgroup_quota() { return HUGE_VAL; }

#endif

}  // namespace

// Processors that share a core print the same list of siblings.
int count_fast_cores(const std::string& folder, const std::set<int>& processors) {
  std::set<std::string> cores;
  for (const int cpu : fast_processors(folder, processors)) {
    const std::string siblings =
        first_line(text(folder, "/system/cpu/cpu", cpu, "/topology/thread_siblings_list"));
    cores.insert(siblings.empty() ? text("cpu", cpu) : siblings);
  }
  return static_cast<int>(cores.size());
}

int default_thread_count() {
  int count = count_cores();
  if (count == 0) count = static_cast<int>(std::thread::hardware_concurrency());
  const double quota = cgroup_quota();
  if (quota < count) count = static_cast<int>(std::ceil(quota));
  return std::max(count, 1);
}

}  // namespace pythia_rt
