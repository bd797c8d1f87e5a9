// The shared memory of the running block.
#include <sys/mman.h>

#include <cstdint>
#include <new>
#include <vector>

#include "cuda/emulator/block.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace pythia_rt::cuda::emulator {

namespace {

constexpr size_t kStaticLimit = 48 * 1024;
constexpr size_t kGap = 64;  // between arrays, out of bounds for the address sanitizer
constexpr size_t kArenaBytes = 64 * 1024;
constexpr int kMostArrays = 32;

struct Array {
  const char* key;
  char* memory;
};

// No heap while threads run: the thread sanitizer would take its locks for order.
Array arrays[kMostArrays];
int n_arrays;
size_t bytes_used;
char* arena;
char* next_free;

}  // namespace

void begin_shared_memory() {
  if (arena == nullptr) {
    void* memory =
        mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    arena = static_cast<char*>(memory);
  }
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(arena, kArenaBytes);
#endif
  n_arrays = 0;
  bytes_used = 0;
  next_free = arena;
}

void end_shared_memory() {
#if defined(PYTHIA_RT_EMULATOR_TSAN)
  // The next block's is new to the sanitizer. Blocks are many, so the address may come again: by
  // then the unmapping has made it forget.
  munmap(arena, kArenaBytes);
  arena = nullptr;
#endif
}

void* shared(size_t bytes, size_t alignment, const char* key) {
  for (int i = 0; i < n_arrays; ++i) {
    if (arrays[i].key == key) return arrays[i].memory;
  }
  bytes_used += bytes;
  if (n_arrays == kMostArrays) fail("more than 32 shared arrays", key);
  if (bytes_used > kStaticLimit) fail("more than 48 KiB of shared memory", key);
  const auto begin = (reinterpret_cast<uintptr_t>(next_free) + kGap + alignment - 1) / alignment;
  char* memory = reinterpret_cast<char*>(begin * alignment);
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
#endif
  // NaN to any float, so that a read before a write shows. Not memset: the thread sanitizer would
  // see it.
  for (size_t i = 0; i < bytes; ++i)
    const_cast<volatile char*>(memory)[i] = static_cast<char>(0xff);
  next_free = memory + bytes;
  arrays[n_arrays++] = {key, memory};
  return memory;
}

}  // namespace pythia_rt::cuda::emulator
