#include "base/scheduling.h"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#include <time.h>
#endif

namespace pythia_rt {

#if defined(__linux__)

int current_processor() { return sched_getcpu(); }

int64_t processor_nanoseconds(std::thread& thread) {
  clockid_t clock;
  timespec time;
  if (pthread_getcpuclockid(thread.native_handle(), &clock) != 0) return -1;
  if (clock_gettime(clock, &time) != 0) return -1;
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

bool move_to_processor(std::thread& thread, int processor) {
  if (processor < 0 || processor >= CPU_SETSIZE) return false;
  cpu_set_t allowed, only;
  const pthread_t handle = thread.native_handle();
  if (pthread_getaffinity_np(handle, sizeof allowed, &allowed) != 0) return false;
  if (!CPU_ISSET(static_cast<size_t>(processor), &allowed)) return false;
  CPU_ZERO(&only);
  CPU_SET(static_cast<size_t>(processor), &only);
  if (pthread_setaffinity_np(handle, sizeof only, &only) != 0) return false;
  return pthread_setaffinity_np(handle, sizeof allowed, &allowed) == 0;
}

#else

int current_processor() { return -1; }
int64_t processor_nanoseconds(std::thread&) { return -1; }
bool move_to_processor(std::thread&, int) { return false; }

#endif

}  // namespace pythia_rt
