#include "emulator/scheduler.h"

#include <atomic>
#include <mutex>
#include <string>

#include "base/error.h"
#include "emulator/block.h"
#include "emulator/fiber_pool.h"
#include "emulator/turns.h"

namespace pythia_rt::cuda::emulator {

Thread* current;
uint3 block_index;
dim3 block_size;
dim3 grid_size;
Block block;

namespace {

std::mutex launches;
std::atomic<int64_t> launches_left{-1};

void (*body)(const void*);
const void* body_argument;
// Name edges for the thread sanitizer.
char block_begin;
char grid_end;

void check_shape(dim3 grid, dim3 threads) {
  const bool is_block_good = threads.x >= 1 && threads.y >= 1 && threads.z >= 1 &&
                             threads.x <= kMostThreads && threads.y <= kMostThreads &&
                             threads.z <= 64 && threads.x * threads.y * threads.z <= kMostThreads;
  const bool is_grid_good = grid.x >= 1 && grid.y >= 1 && grid.z >= 1 && grid.x <= 0x7fffffffu &&
                            grid.y <= 65535 && grid.z <= 65535;
  if (is_block_good && is_grid_good) return;
  throw_failed("the CUDA device failed: invalid configuration argument: a grid of ", grid.x, " x ",
               grid.y, " x ", grid.z, " blocks of ", threads.x, " x ", threads.y, " x ", threads.z,
               " threads");
}

// The whole life of a thread.
void live() {
  arrive();
  acquire_edge(&block_begin);
  body(body_argument);
  EmulatedThread& self = block.running();
  self.state = State::done;
  block.live -= 1;
  release_edge(&grid_end);
  after_exit(self);
  block.leave(self);
}

void begin_thread(int i, int pool) {
  EmulatedThread& thread = block.thread_at(i);
  const auto index = static_cast<unsigned>(i);
  thread.index = {index % block_size.x, index / block_size.x % block_size.y,
                  index / (block_size.x * block_size.y)};
  thread.lane = i % 32;
  thread.warp = i / 32;
  PendingCopies& copies = block.copies[static_cast<size_t>(i)];
  copies.first = copies.end = copies.group = 0;
  thread.fiber = &fiber_at(pool, i);
  prepare(*thread.fiber, stack_offset(i), live);
  block.wake(thread);
}

// Threads that wait when nobody can go on.
Defect deadlock() {
  Defect found;
  found.what = "threads wait for each other for ever";
  for (int i = 0; i < block.count; ++i) {
    const EmulatedThread& thread = block.thread_at(i);
    if (thread.state == State::done) continue;
    if (found.thread == nullptr) {
      found.site = thread.site;
      found.thread = &thread;
    } else if (thread.site != found.site || thread.mask != found.thread->mask) {
      found.other_site = thread.site;
      found.other_thread = &thread;
      break;
    }
  }
  return found;
}

void run_block(int pool) {
  begin_memory();
  block.live = block.count;
  block.arrived = 0;
  block.ready.begin_block(block.count);
  for (int warp = 0; 32 * warp < block.count; ++warp) {
    const int lanes = block.count - 32 * warp;
    block.warps[warp] = {0, lanes >= 32 ? 0 : ~0u << lanes};
  }
  for (int i = 0; i < block.count; ++i) begin_thread(i, pool);
  release_edge(&block_begin);
  block.switch_to_threads();
  if (block.defect.what == nullptr && block.live > 0) block.defect = deadlock();
  for (int i = 0; i < block.count; ++i) {
    EmulatedThread& thread = block.thread_at(i);
    if (thread.state == State::done) continue;
    // Whoever launched the grid sees all that was done, also if it ends in the middle.
    release_edge_of(*thread.fiber, block.scheduler, &grid_end);
    abandon(*thread.fiber);
  }
  end_memory();
}

std::string place_of(const EmulatedThread& thread) {
  return text("thread (", thread.index.x, ",", thread.index.y, ",", thread.index.z, ")");
}

[[noreturn]] void throw_defect(const Defect& defect) {
  std::string place = text(" at ", defect.site, ", ", place_of(*defect.thread));
  if (defect.other_thread != nullptr) {
    place += text(", and at ", defect.other_site, ", ", place_of(*defect.other_thread));
  }
  throw_failed("a kernel is wrong: ", defect.what, place, ", block (", block_index.x, ",",
               block_index.y, ",", block_index.z, ")");
}

}  // namespace

void Block::wake(EmulatedThread& thread) {
  thread.state = State::ready;
  ready.push(index_of(thread));
}

Fiber& Block::next() {
  if (ready.count() == 0 || defect.what != nullptr) return scheduler;
  EmulatedThread& thread = thread_at(ready.take());
  current = &thread;
  return *thread.fiber;
}

void Block::switch_to_threads() { switch_fiber(scheduler, next()); }

void Block::wait(EmulatedThread& thread) {
  Fiber& to = next();
  if (&to != thread.fiber) switch_fiber(*thread.fiber, to);
}

void Block::leave(EmulatedThread& thread) {
  switch_fiber(*thread.fiber, next(), true);
  __builtin_unreachable();
}

void Block::fail(const Defect& found) {
  defect = found;
  leave(running());
}

void fail_after(int64_t n) { launches_left = n; }

void check_device() {
  if (launches_left == 0) throw_failed("the CUDA device failed: it is not there any more");
}

void run(dim3 grid, dim3 threads, void (*kernel)(const void*), const void* argument) {
  const std::lock_guard lock(launches);
  check_device();
  check_shape(grid, threads);
  if (launches_left > 0) launches_left -= 1;
  begin_order();
  grid_size = grid;
  block_size = threads;
  body = kernel;
  body_argument = argument;
  block.defect = Defect();
  block.scheduler = Fiber();
  adopt_current(block.scheduler);
  block.count = static_cast<int>(threads.x * threads.y * threads.z);
  if (block.threads.size() < static_cast<size_t>(block.count)) {
    block.threads.resize(static_cast<size_t>(block.count));
    block.copies.resize(static_cast<size_t>(block.count));
  }
  unsigned turn = 0;
  for (const unsigned index : order_of_blocks(size_t{grid.x} * grid.y * grid.z)) {
    block_index = {index % grid.x, index / grid.x % grid.y, index / (grid.x * grid.y)};
    run_block(pool_of_block(turn++));
    if (block.defect.what != nullptr) break;
  }
  acquire_edge(&grid_end);
  if (block.defect.what != nullptr) throw_defect(block.defect);
}

void fence() {
  static char edge;
  acquire_edge(&edge);
  release_edge(&edge);
}

void fail(const char* what, const char* site) {
  Defect found;
  found.what = what;
  found.site = site;
  found.thread = &block.running();
  block.fail(found);
}

}  // namespace pythia_rt::cuda::emulator
