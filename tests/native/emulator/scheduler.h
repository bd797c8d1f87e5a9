// The emulator's scheduler: the threads of a block are fibers of one thread of the host, and take
// turns where they wait for each other. The names of port.h are made of what stands here, and so is
// translated PTX (tests/cuda/ptx).
//
// Launches of several host threads take turns too. A defect of a kernel ends its launch with a
// std::runtime_error that names the place. `site` is a place in the source, and one that lasts.
#pragma once

#include <cstddef>
#include <cstdint>

#include "emulator/vector_types.h"

namespace pythia_rt::cuda::emulator {

// Of a block, as on any device.
constexpr int kMostThreads = 1024;

// Who runs next: the first that is ready, the last, anybody, or by priorities that are drawn anew
// for every block, so that the winner runs as far as it can. Random orders also draw the order of
// blocks and the time at which asynchronous copies land.
enum class Order { fifo, reverse, random, skew };

// Of the launches that follow: the same launches after it run in the same order again. Until it is
// called the environment's PYTHIA_RT_EMULATOR_ORDER and PYTHIA_RT_EMULATOR_SEED hold.
void set_order(Order order, uint64_t seed);

// The device disappears after so many launches from now on; below 0 it stays, or comes back.
void fail_after(int64_t launches);
// Throws if it has disappeared.
void check_device();

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
  reduce_add,  // of signed 32-bit integers
  reduce_max,
  reduce_min,
  mma_m16n8k32,  // of signed 8-bit integers
  mma_m8n8k16,
  reduce_and,  // bits
  reduce_or,
  reduce_xor,
};

// Waits until all lanes of the mask are at the same `site` for the same purpose. `source` and
// `width` are a shuffle's; `fragment` points to the lane's MmaFragment, of products.
uint64_t collective(Collective purpose, unsigned mask, uint64_t value, int source, int width,
                    const char* site, void* fragment = nullptr);

// One lane's part of the matrices of d += a * b, as PTX ISA lays them out: with g = lane / 4 and
// q = lane % 4, for m16n8k32 as nvcc_port.cuh says. For m8n8k16 a[0] is row g and columns 4 q to
// 4 q + 3 of A [8][16], b[0] column g and these rows of B [16][8], d[0] and d[1] are row g,
// columns 2 q and 2 q + 1 of D [8][8].
struct MmaFragment {
  unsigned a[4];
  unsigned b[2];
  int d[4];
};

// Barriers of a block, and what they return of the predicates: nothing, whether any or all of them
// hold, how many do.
enum class Barrier { plain, any, all, count };
int block_sync(Barrier kind, int predicate, const char* site);

// Memory of the block, filled with ones: the same for the same address `key`, a text that names it.
void* shared(size_t bytes, size_t alignment, const char* key);

// Copies that land when they are waited for, or at once if land_now() says so.
bool land_now();
void push_copy(void* to, const void* from, const char* site);
void commit_copies();
// The next copy that must land for all but the last `pending` groups to be done.
bool pop_copy(int pending, void** to, const void** from);

// Orders the memory of the calling thread with that of others that called it.
void fence();

// Ends the launch: the kernel is wrong.
[[noreturn]] void fail(const char* what, const char* site);

}  // namespace pythia_rt::cuda::emulator
