// What the threads of a warp or a block do together.
#include <cstdint>
#include <cstring>

#include "emulator/block.h"
#include "emulator/products.h"

namespace pythia_rt::cuda::emulator {

namespace {

// What a shuffle gives a lane that asks for one outside the mask: NaN in any float format.
constexpr uint64_t kGarbage = 0x7fffdead7fffdeadull;

bool contains(unsigned lanes, int lane) { return (lanes >> lane & 1) != 0; }

// The lane that a shuffle reads from.
int source_of(const EmulatedThread& thread) {
  const int lane = thread.lane;
  const int distance = thread.source & 31;
  const int first = lane & ~(thread.width - 1);
  const int end = first + thread.width;
  switch (thread.purpose) {
    case Collective::shuffle:
      return first + (thread.source & (thread.width - 1));
    case Collective::shuffle_up:
      return lane - distance >= first ? lane - distance : lane;
    case Collective::shuffle_down:
      return lane + distance < end ? lane + distance : lane;
    default:
      return (lane ^ distance) < end ? lane ^ distance : lane;
  }
}

void shuffle(EmulatedThread* lanes, unsigned mask) {
  for (int lane = 0; lane < 32; ++lane) {
    if (!contains(mask, lane)) continue;
    const int source = source_of(lanes[lane]);
    lanes[lane].result = contains(mask, source) ? lanes[source].value : kGarbage;
  }
}

uint32_t combine(Collective purpose, uint32_t a, uint32_t b) {
  switch (purpose) {
    case Collective::reduce_add:
      return a + b;
    case Collective::reduce_max:
      return static_cast<int32_t>(a) > static_cast<int32_t>(b) ? a : b;
    case Collective::reduce_min:
      return static_cast<int32_t>(a) < static_cast<int32_t>(b) ? a : b;
    case Collective::reduce_and:
      return a & b;
    case Collective::reduce_or:
      return a | b;
    default:
      return a ^ b;
  }
}

// Gives every lane what comes of all values.
void reduce(EmulatedThread* lanes, unsigned mask, Collective purpose) {
  uint32_t ballot = 0, reduced = 0;
  bool is_first = true;
  for (int lane = 0; lane < 32; ++lane) {
    if (!contains(mask, lane)) continue;
    const auto value = static_cast<uint32_t>(lanes[lane].value);
    ballot |= uint32_t{lanes[lane].value != 0} << lane;
    reduced = is_first ? value : combine(purpose, reduced, value);
    is_first = false;
  }
  for (int lane = 0; lane < 32; ++lane) {
    if (!contains(mask, lane)) continue;
    lanes[lane].result = purpose == Collective::ballot ? ballot : reduced;
  }
}

// Only __syncwarp orders memory: a shuffle, a vote or a product does not.
void meet(unsigned mask, int first_thread) {
  for (int lane = 0; lane < 32; ++lane) {
    if (contains(mask, lane)) acquire_edge(&block.edges->lanes[first_thread + lane].arrived);
  }
  for (int lane = 0; lane < 32; ++lane) {
    if (contains(mask, lane)) release_edge(&block.edges->lanes[first_thread + lane].released);
  }
}

bool is_product(Collective purpose) {
  return purpose == Collective::mma_m16n8k32 || purpose == Collective::mma_m8n8k16;
}

// All lanes of the mask are there.
void perform(EmulatedThread* lanes, unsigned mask, Collective purpose) {
  switch (purpose) {
    case Collective::shuffle:
    case Collective::shuffle_up:
    case Collective::shuffle_down:
    case Collective::shuffle_xor:
      return shuffle(lanes, mask);
    case Collective::sync:
      return meet(mask, block.index_of(lanes[0]));
    case Collective::mma_m16n8k32:
    case Collective::mma_m8n8k16: {
      MmaFragment* fragments[32];
      for (int lane = 0; lane < 32; ++lane) fragments[lane] = lanes[lane].fragment;
      return purpose == Collective::mma_m16n8k32 ? multiply_m16n8k32(fragments)
                                                 : multiply_m8n8k16(fragments);
    }
    default:
      return reduce(lanes, mask, purpose);
  }
}

// Sites of an inline function that several files use are equal texts.
bool is_same_site(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }

// Whether the waiting lanes of the mask wait for each other.
bool do_lanes_agree(const EmulatedThread* lanes, const EmulatedThread& self) {
  for (int lane = 0; lane < 32; ++lane) {
    if (!contains(self.mask, lane)) continue;
    const EmulatedThread& other = lanes[lane];
    if (other.mask != self.mask || other.purpose != self.purpose ||
        !is_same_site(other.site, self.site)) {
      return false;
    }
  }
  return true;
}

void check_arguments(const EmulatedThread& self, unsigned exited) {
  const auto width = static_cast<unsigned>(self.width);
  if (width == 0 || width > 32 || (width & (width - 1)) != 0) {
    fail("the width of a shuffle is not a power of two up to 32", self.site);
  }
  if (!contains(self.mask, self.lane)) {
    fail("the calling lane is not in the mask of a warp's intrinsic", self.site);
  }
  if (is_product(self.purpose) && self.mask != ~0u) {
    fail("a product of matrices needs the whole warp", self.site);
  }
  if ((self.mask & exited) != 0) {
    fail("the mask of a warp's intrinsic names a lane that has exited or does not exist",
         self.site);
  }
}

void release_barrier() {
  int any = 0, all = 1, count = 0;
  const EmulatedThread* first = nullptr;
  for (int i = 0; i < block.count; ++i) {
    const EmulatedThread& thread = block.thread_at(i);
    if (thread.state != State::in_block) continue;
    if (first == nullptr) first = &thread;
    if (!is_same_site(first->site, thread.site)) {
      block.defect = {"__syncthreads in divergent code", first->site, first, thread.site, &thread};
      return;
    }
    any |= thread.predicate;
    all &= thread.predicate;
    count += thread.predicate;
  }
  acquire_edge(&block.edges->barrier.arrived);
  release_edge(&block.edges->barrier.released);
  const int results[] = {0, any, all, count};
  for (int i = 0; i < block.count; ++i) {
    EmulatedThread& thread = block.thread_at(i);
    if (thread.state != State::in_block) continue;
    thread.result = static_cast<uint64_t>(results[static_cast<int>(thread.barrier)]);
    block.wake(thread);
  }
  block.arrived = 0;
}

}  // namespace

int block_sync(Barrier kind, int predicate, const char* site) {
  EmulatedThread& self = block.running();
  self.barrier = kind;
  self.predicate = predicate != 0 ? 1 : 0;
  self.site = site;
  self.state = State::in_block;
  release_edge(&block.edges->barrier.arrived);
  block.arrived += 1;
  if (block.arrived == block.live) release_barrier();
  block.wait(self);
  acquire_edge(&block.edges->barrier.released);
  return static_cast<int>(self.result);
}

uint64_t collective(Collective purpose, unsigned mask, uint64_t value, int source, int width,
                    const char* site, void* fragment) {
  EmulatedThread& self = block.running();
  Warp& warp = block.warps[self.warp];
  EmulatedThread* lanes = &self - self.lane;
  // A last warp that is not full has no other lanes.
  const int count = block.count - 32 * self.warp;
  if (mask == ~0u && count < 32 && !is_product(purpose)) mask = (1u << count) - 1;
  self.purpose = purpose;
  self.mask = mask;
  self.value = value;
  self.source = source;
  self.width = width;
  self.site = site;
  self.fragment = static_cast<MmaFragment*>(fragment);
  check_arguments(self, warp.exited);

  Edges::Meeting& edge = block.edges->lanes[block.index_of(self)];
  if (purpose == Collective::sync) release_edge(&edge.arrived);
  self.state = State::in_warp;
  warp.waiting |= 1u << self.lane;
  if ((warp.waiting & mask) == mask && do_lanes_agree(lanes, self)) {
    perform(lanes, mask, purpose);
    warp.waiting &= ~mask;
    for (int lane = 0; lane < 32; ++lane) {
      if (contains(mask, lane)) block.wake(lanes[lane]);
    }
  }
  block.wait(self);
  if (purpose == Collective::sync) acquire_edge(&edge.released);
  return self.result;
}

void after_exit(EmulatedThread& thread) {
  Warp& warp = block.warps[thread.warp];
  warp.exited |= 1u << thread.lane;
  const EmulatedThread* lanes = &thread - thread.lane;
  for (int lane = 0; lane < 32; ++lane) {
    if (!contains(warp.waiting, lane) || !contains(lanes[lane].mask, thread.lane)) continue;
    block.defect.what = "the mask of a warp's intrinsic names a lane that has exited";
    block.defect.site = lanes[lane].site;
    block.defect.thread = &lanes[lane];
    return;
  }
  // Since Volta, threads that exited do not count.
  if (block.arrived > 0 && block.arrived == block.live) release_barrier();
}

}  // namespace pythia_rt::cuda::emulator
