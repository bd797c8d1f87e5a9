#include "emulator/fiber_pool.h"

#include <sys/mman.h>
#include <unistd.h>

#include <new>

#include "emulator/scheduler.h"

namespace pythia_rt::cuda::emulator {

namespace {

// Untouched pages take no memory.
constexpr size_t kStackBytes = 128 * 1024;

Fiber pools[2][kMostThreads];

}  // namespace

Fiber& fiber_at(int pool, int i) {
  Fiber& fiber = pools[pool][i];
  if (fiber.stack != nullptr) return fiber;
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  if (mprotect(memory, page, PROT_NONE) != 0) throw std::bad_alloc();
  fiber.stack = static_cast<char*>(memory) + page;
  fiber.stack_bytes = kStackBytes - page;
  return fiber;
}

size_t stack_offset(int i) { return static_cast<size_t>(i % 32) * 832; }

}  // namespace pythia_rt::cuda::emulator
