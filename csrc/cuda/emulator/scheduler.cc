#include "cuda/emulator/scheduler.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <new>
#include <stdexcept>
#include <utility>

#include "base/error.h"
#include "cuda/emulator/block.h"

namespace pythia_rt::cuda::emulator {

Thread* current;
uint3 block_index;
dim3 block_size;
dim3 grid_size;
Block block;

namespace {

constexpr size_t kStackBytes = 64 * 1024;

std::mutex launches;
Order chosen_order = Order::fifo;
uint64_t chosen_seed = 1;
bool is_order_chosen = false;
std::atomic<int64_t> launches_left{-1};
uint64_t random_state = 1;
void (*body)(const void*);
const void* body_argument;
char grid_end;  // names the end of a grid for the thread sanitizer

uint64_t random() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

char* map_memory(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return static_cast<char*>(memory);
}

void read_environment() {
  if (is_order_chosen) return;
  is_order_chosen = true;
  const char* name = std::getenv("PYTHIA_RT_EMULATOR_ORDER");
  const char* seed = std::getenv("PYTHIA_RT_EMULATOR_SEED");
  const std::string wanted = name == nullptr ? "fifo" : name;
  if (wanted == "reverse") chosen_order = Order::reverse;
  if (wanted == "random") chosen_order = Order::random;
  if (wanted == "skew") chosen_order = Order::skew;
  if (seed != nullptr) chosen_seed = std::strtoull(seed, nullptr, 10) | 1u;
}

void check_launch(dim3 grid, dim3 threads) {
  const uint64_t n_threads = uint64_t{threads.x} * threads.y * threads.z;
  const bool is_good = n_threads > 0 && n_threads <= 1024 && threads.z <= 64 && grid.x > 0 &&
                       grid.y > 0 && grid.z > 0 && grid.x <= 0x7fffffffu && grid.y <= 65535 &&
                       grid.z <= 65535;
  if (!is_good) {
    throw_failed("the CUDA device failed: invalid configuration argument: a grid of ", grid.x,
                 " x ", grid.y, " x ", grid.z, " blocks of ", threads.x, " x ", threads.y, " x ",
                 threads.z, " threads");
  }
}

// The whole life of a thread.
void live() {
  arrive();
  EmulatedThread& self = block.running();
  body(body_argument);
  self.state = State::done;
  block.live -= 1;
  release_edge(&grid_end);
  release_barrier_if_full();
  switch_fiber(self.fiber, block.scheduler, true);
  __builtin_unreachable();
}

void begin_block() {
  begin_shared_memory();
  block.live = block.count;
  block.arrived = 0;
  block.ready.clear(block.count);
  for (int i = 0; i < block.count; ++i) {
    EmulatedThread& thread = block.threads[static_cast<size_t>(i)];
    const auto index = static_cast<unsigned>(i);
    thread.index = {index % block_size.x, index / block_size.x % block_size.y,
                    index / (block_size.x * block_size.y)};
    thread.lane = i % 32;
    thread.warp = i / 32;
    thread.copy_group = thread.first_copy = thread.end_copy = 0;
    thread.priority = static_cast<uint32_t>(random());
    prepare(thread.fiber, live);
    block.wake(thread);
  }
}

// Which of the threads that are ready goes on.
int choose() {
  const int n = block.ready.count();
  switch (order()) {
    case Order::fifo:
      return 0;
    case Order::reverse:
      return n - 1;
    case Order::random:
      return static_cast<int>(random_below(static_cast<uint64_t>(n)));
    case Order::skew:
      break;
  }
  const auto priority = [](int i) {
    return block.threads[static_cast<size_t>(block.ready.at(i))].priority;
  };
  int best = 0;
  for (int i = 1; i < n; ++i) {
    if (priority(i) > priority(best)) best = i;
  }
  return best;
}

void run_thread(int index) {
  EmulatedThread& thread = block.threads[static_cast<size_t>(index)];
  current = &thread;
  switch_fiber(block.scheduler, thread.fiber);
}

void run_threads() {
  while (block.error.empty() && block.ready.count() > 0) {
    run_thread(block.ready.take(choose()));
  }
  if (block.error.empty() && block.live > 0) {
    for (int i = 0; i < block.count; ++i) {
      const EmulatedThread& thread = block.threads[static_cast<size_t>(i)];
      if (thread.state == State::done) continue;
      block.error = text("threads wait for each other for ever: one at ", thread.site, ", ",
                         place_of(thread));
      break;
    }
  }
}

#if defined(PYTHIA_RT_EMULATOR_TSAN)
// The sanitizer would take a stack that another thread used before for shared memory: every block
// has new ones, in one piece, since it is slow to learn of each.
constexpr bool kNewStacks = true;
#else
constexpr bool kNewStacks = false;
#endif
char* stacks;
size_t stacks_bytes;

void give_stacks() {
  const size_t bytes = static_cast<size_t>(block.count) * kStackBytes;
  if (stacks_bytes < bytes) {
    if (stacks != nullptr) munmap(stacks, stacks_bytes);
    stacks = map_memory(bytes);
    stacks_bytes = bytes;
  }
  for (int i = 0; i < block.count; ++i) {
    Fiber& fiber = block.threads[static_cast<size_t>(i)].fiber;
    fiber.stack = stacks + static_cast<size_t>(i) * kStackBytes;
    fiber.stack_bytes = kStackBytes;
  }
}

void take_stacks() {
  for (int i = 0; i < block.count; ++i) forget(block.threads[static_cast<size_t>(i)].fiber);
  if (kNewStacks) {
    munmap(stacks, stacks_bytes);
    stacks_bytes = 0;
    stacks = nullptr;
  }
}

void run_block() {
  give_stacks();
  begin_block();
  run_threads();
  take_stacks();
  end_shared_memory();
}

}  // namespace

void Block::wake(EmulatedThread& thread) {
  thread.state = State::ready;
  ready.push(static_cast<int>(&thread - threads.data()));
}

// Whoever launched the grid sees all that was done, also if it ends in the middle.
void Block::wait(EmulatedThread& thread) {
  release_edge(&grid_end);
  switch_fiber(thread.fiber, scheduler);
}

Order order() { return chosen_order; }

uint64_t random_below(uint64_t n) { return (random() >> 16) % n; }

std::string place_of(const EmulatedThread& thread) {
  return text("block (", block_index.x, ",", block_index.y, ",", block_index.z, "), thread (",
              thread.index.x, ",", thread.index.y, ",", thread.index.z, ")");
}

void set_order(Order new_order, uint64_t seed) {
  const std::lock_guard lock(launches);
  chosen_order = new_order;
  chosen_seed = seed | 1u;
  is_order_chosen = true;
}

void fail_after(int64_t n) { launches_left = n; }

void fail(const char* what, const char* site) {
  EmulatedThread& self = block.running();
  block.error = text(what, " at ", site, ", ", place_of(self));
  release_edge(&grid_end);
  switch_fiber(self.fiber, block.scheduler, true);
  __builtin_unreachable();
}

void run(dim3 grid, dim3 threads, void (*kernel)(const void*), const void* argument) {
  const std::lock_guard lock(launches);
  if (launches_left == 0) throw_failed("the CUDA device failed: it is not there any more");
  if (launches_left > 0) launches_left -= 1;
  check_launch(grid, threads);
  read_environment();
  grid_size = grid;
  block_size = threads;
  body = kernel;
  body_argument = argument;
  random_state = chosen_seed * 0x9e3779b97f4a7c15ull;
  block.error.clear();
  block.scheduler = Fiber();
  adopt_current(block.scheduler);
  block.count = static_cast<int>(threads.x * threads.y * threads.z);
  if (block.threads.size() < static_cast<size_t>(block.count)) {
    block.threads.resize(static_cast<size_t>(block.count));
  }
  std::vector<unsigned> blocks(size_t{grid.x} * grid.y * grid.z);
  for (size_t i = 0; i < blocks.size(); ++i) {
    blocks[i] = static_cast<unsigned>(chosen_order == Order::reverse ? blocks.size() - 1 - i : i);
  }
  if (chosen_order == Order::random || chosen_order == Order::skew) {
    for (size_t i = blocks.size(); i > 1; --i) std::swap(blocks[i - 1], blocks[random_below(i)]);
  }
  for (const unsigned index : blocks) {
    block_index = {index % grid.x, index / grid.x % grid.y, index / (grid.x * grid.y)};
    run_block();
    if (!block.error.empty()) break;
  }
  acquire_edge(&grid_end);
  if (!block.error.empty()) throw_failed("a kernel is wrong: ", block.error);
}

void fence() {
  static char edge;
  acquire_edge(&edge);
  release_edge(&edge);
}

}  // namespace pythia_rt::cuda::emulator
