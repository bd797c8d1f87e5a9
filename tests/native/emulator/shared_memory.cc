// The shared memory of the running block, and beside it the addresses of its edges.
#include <sys/mman.h>

#include <cstdint>
#include <new>

#include "emulator/block.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace pythia_rt::cuda::emulator {

namespace {

constexpr size_t kLimit = 48 * 1024;
constexpr size_t kUnit = 16;  // every array begins at a multiple of it, as on the device
constexpr size_t kGap = 64;   // between arrays, out of bounds for the address sanitizer
constexpr int kMostArrays = 64;
constexpr size_t kArenaBytes = kLimit + (kMostArrays + 1) * 2 * kGap;
constexpr size_t kBytes = sizeof(Edges) + kGap + kArenaBytes;

struct Array {
  const char* key;
  char* memory;
};

Array arrays[kMostArrays];
int n_arrays = 0;
size_t bytes_used = 0;  // gaps are not counted
char* memory = nullptr;
char* arena = nullptr;
char* next_free = nullptr;

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

// With ones: NaN to any float, so that a read before a write shows. Not with memset, which the
// thread sanitizer would see.
void fill(char* begin, size_t bytes) {
  auto* words = reinterpret_cast<volatile uint64_t*>(begin);
  for (size_t i = 0; i < bytes / sizeof *words; ++i) words[i] = ~uint64_t{0};
}

}  // namespace

void begin_memory() {
  if (memory == nullptr) {
    void* mapped =
        mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    memory = static_cast<char*>(mapped);
    block.edges = reinterpret_cast<Edges*>(memory);
    arena = memory + round_up(sizeof(Edges), kGap);
  }
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(arena, kArenaBytes);
#endif
  n_arrays = 0;
  bytes_used = 0;
  next_free = arena;
}

void end_memory() {
#if defined(PYTHIA_RT_EMULATOR_TSAN)
  // The next block's memory must be new to the sanitizer: it forgets what is unmapped, even if the
  // address comes again.
  munmap(memory, kBytes);
  memory = nullptr;
#endif
}

void* shared(size_t bytes, size_t alignment, const char* key) {
  for (int i = 0; i < n_arrays; ++i) {
    if (arrays[i].key == key) return arrays[i].memory;
  }
  if (n_arrays == kMostArrays) fail("more than 64 shared arrays", key);
  if (alignment > kGap) fail("a shared array with an alignment of more than 64", key);
  bytes_used += round_up(bytes, kUnit);
  if (bytes_used > kLimit) fail("more than 48 KiB of shared memory", key);
  char* array = next_free + kGap;
#if defined(__SANITIZE_ADDRESS__)
  // What the rounding adds stays out of bounds.
  ASAN_UNPOISON_MEMORY_REGION(array, round_up(bytes, kUnit));
#endif
  fill(array, round_up(bytes, kUnit));
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(array + bytes, round_up(bytes, kUnit) - bytes);
#endif
  next_free += kGap + round_up(bytes, kGap);
  arrays[n_arrays++] = {key, array};
  return array;
}

}  // namespace pythia_rt::cuda::emulator
