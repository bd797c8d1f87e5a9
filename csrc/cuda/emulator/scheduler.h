// The emulator's scheduler: the threads of a block are fibers of one thread of the host, and take
// turns where they wait for each other.
//
// Launches of several host threads take turns too. A defect of a kernel ends its launch with a
// std::runtime_error that names the place.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/emulator/vector_types.h"

namespace pythia_rt::cuda::emulator {

// Who runs next: the first that is ready, the last, anybody, or by priorities that are drawn anew
// for every block, so that the winner runs as far as it can. Random orders also draw the order of
// blocks and the time at which asynchronous copies land.
enum class Order { fifo, reverse, random, skew };

// Of the launches that follow. The environment's PYTHIA_RT_EMULATOR_ORDER and _SEED come first.
void set_order(Order order, uint64_t seed);

// The device disappears after so many launches from now on; below 0 it stays.
void fail_after(int64_t launches);

// A thread as kernels see it.
struct Thread {
  uint3 index;
  int lane;
  int warp;
};
extern Thread* current;
extern uint3 block_index;
extern dim3 block_size;
extern dim3 grid_size;

// Runs body(argument) in every thread of every block.
void run(dim3 grid, dim3 block, void (*body)(const void*), const void* argument);

// What the lanes of a warp do together.
enum class Collective {
  shuffle,
  shuffle_up,
  shuffle_down,
  shuffle_xor,
  ballot,
  sync,
  reduce_add,
  reduce_max,
  reduce_min,
  mma_m16n8k32,  // signed 8-bit integers
  mma_m8n8k16,
};

// Waits until all lanes of the mask are at the same `site` for the same purpose. `fragment` points
// to the lane's MmaFragment, of products.
uint64_t collective(Collective purpose, unsigned mask, uint64_t value, int source, int width,
                    const char* site, void* fragment = nullptr);

struct MmaFragment {
  unsigned a[4];
  unsigned b[2];
  int d[4];
};

// Barriers of a block, and what they count.
enum class Barrier { plain, any, all, count };
int block_sync(Barrier kind, int predicate, const char* site);

// Memory of the block, filled with ones: the same for the same key.
void* shared(size_t bytes, size_t alignment, const char* key);

// Copies that land when they are waited for, or at once if land_now() says so.
bool land_now();
void push_copy(void* to, const void* from, const char* site);
void commit_copies();
// The next copy that must land for all but the last `pending` groups to be done.
bool pop_copy(int pending, void** to, const void** from);

// Orders the memory of the calling thread with that of others that called it.
void fence();

// Ends the launch.
[[noreturn]] void fail(const char* what, const char* site);

}  // namespace pythia_rt::cuda::emulator
