// What the threads of a warp or a block do together.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "base/error.h"
#include "cuda/emulator/block.h"

namespace pythia_rt::cuda::emulator {

namespace {

// What a shuffle gives a lane that asks for one outside the mask: NaN in any float format.
constexpr uint64_t kGarbage = 0x7fffdead7fffdeadull;

int8_t signed_byte(unsigned word, int i) { return static_cast<int8_t>(word >> 8 * i); }

// d += a * b for fragments as PTX ISA names them: g = lane / 4 is a row of A and D and a column of
// B, q = lane % 4 one of the quads of columns of A and rows of B.
void multiply_16_8_32(EmulatedThread* lanes) {
  static int8_t a[16][32], b[8][32];
  for (int lane = 0; lane < 32; ++lane) {
    const MmaFragment& fragment = *lanes[lane].fragment;
    const int g = lane / 4, q = lane % 4;
    for (int i = 0; i < 4; ++i) {
      for (int r = 0; r < 4; ++r) {
        a[g + 8 * (r % 2)][16 * (r / 2) + 4 * q + i] = signed_byte(fragment.a[r], i);
      }
      for (int r = 0; r < 2; ++r) b[g][16 * r + 4 * q + i] = signed_byte(fragment.b[r], i);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int8_t* row = a[lane / 4 + 8 * (i / 2)];
      const int8_t* column = b[lane % 4 * 2 + i % 2];
      int sum = 0;
      for (int k = 0; k < 32; ++k) sum += row[k] * column[k];
      lanes[lane].fragment->d[i] += sum;
    }
  }
}

void multiply_8_8_16(EmulatedThread* lanes) {
  static int8_t a[8][16], b[8][16];
  for (int lane = 0; lane < 32; ++lane) {
    const MmaFragment& fragment = *lanes[lane].fragment;
    for (int i = 0; i < 4; ++i) {
      a[lane / 4][lane % 4 * 4 + i] = signed_byte(fragment.a[0], i);
      b[lane / 4][lane % 4 * 4 + i] = signed_byte(fragment.b[0], i);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 2; ++i) {
      int sum = 0;
      for (int k = 0; k < 16; ++k) sum += a[lane / 4][k] * b[lane % 4 * 2 + i][k];
      lanes[lane].fragment->d[i] += sum;
    }
  }
}

// The lane that a shuffle reads from.
int source_of(const EmulatedThread& thread, int lane) {
  const int base = lane & ~(thread.width - 1);
  switch (thread.purpose) {
    case Collective::shuffle:
      return base + (thread.source & (thread.width - 1));
    case Collective::shuffle_up:
      return lane - thread.source >= base ? lane - thread.source : lane;
    case Collective::shuffle_down:
      return lane + thread.source < base + thread.width ? lane + thread.source : lane;
    default:
      return (lane ^ thread.source) < base + thread.width ? lane ^ thread.source : lane;
  }
}

void reduce(EmulatedThread* lanes, unsigned mask, Collective purpose) {
  uint64_t ballot = 0;
  unsigned sum = 0;
  int largest = INT32_MIN, smallest = INT32_MAX;
  for (int lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    const auto value = static_cast<int>(lanes[lane].value);
    ballot |= uint64_t{lanes[lane].value != 0} << lane;
    sum += static_cast<unsigned>(value);
    largest = std::max(largest, value);
    smallest = std::min(smallest, value);
  }
  uint64_t result = ballot;
  if (purpose == Collective::reduce_add) result = sum;
  if (purpose == Collective::reduce_max) result = static_cast<uint32_t>(largest);
  if (purpose == Collective::reduce_min) result = static_cast<uint32_t>(smallest);
  for (int lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1) != 0) lanes[lane].result = result;
  }
}

// All lanes of the mask are there.
void perform(EmulatedThread* lanes, unsigned mask, Collective purpose) {
  switch (purpose) {
    case Collective::mma_m16n8k32:
      return multiply_16_8_32(lanes);
    case Collective::mma_m8n8k16:
      return multiply_8_8_16(lanes);
    case Collective::sync:
      return;
    case Collective::ballot:
    case Collective::reduce_add:
    case Collective::reduce_max:
    case Collective::reduce_min:
      return reduce(lanes, mask, purpose);
    default:
      for (int lane = 0; lane < 32; ++lane) {
        if ((mask >> lane & 1) == 0) continue;
        const int source = source_of(lanes[lane], lane);
        lanes[lane].result = (mask >> source & 1) != 0 ? lanes[source].value : kGarbage;
      }
  }
}

// Sites of an inline function that several files use are equal texts.
bool is_same_site(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }

// Whether everybody in the mask waits at the same place; fails if somebody never will.
bool is_complete(const EmulatedThread& self, const EmulatedThread* lanes, int n) {
  bool complete = true;
  for (int lane = 0; lane < 32; ++lane) {
    if ((self.mask >> lane & 1) == 0) continue;
    if (lane >= n || lanes[lane].state == State::done) {
      fail("the mask of a warp's intrinsic names a lane that has exited or does not exist",
           self.site);
    }
    const EmulatedThread& other = lanes[lane];
    complete = complete && other.state == State::in_warp && other.mask == self.mask &&
               other.purpose == self.purpose && is_same_site(other.site, self.site);
  }
  return complete;
}

char barrier_edge;

void release_barrier() {
  int any = 0, all = 1, count = 0;
  const EmulatedThread* first = nullptr;
  for (int i = 0; i < block.count; ++i) {
    const EmulatedThread& thread = block.threads[static_cast<size_t>(i)];
    if (thread.state != State::in_block) continue;
    if (first != nullptr && !is_same_site(first->site, thread.site) && block.error.empty()) {
      block.error = text("__syncthreads in divergent code: ", first->site, " and ", thread.site,
                         ", ", place_of(thread));
    }
    first = &thread;
    any |= thread.predicate;
    all &= thread.predicate;
    count += thread.predicate;
  }
  for (int i = 0; i < block.count; ++i) {
    EmulatedThread& thread = block.threads[static_cast<size_t>(i)];
    if (thread.state != State::in_block) continue;
    const int results[] = {0, any, all, count};
    thread.result = static_cast<uint64_t>(results[static_cast<int>(thread.barrier)]);
    block.wake(thread);
  }
  block.arrived = 0;
}

}  // namespace

// Since Volta, threads that exited do not count.
void release_barrier_if_full() {
  if (block.arrived > 0 && block.arrived == block.live) release_barrier();
}

int block_sync(Barrier kind, int predicate, const char* site) {
  EmulatedThread& self = block.running();
  self.barrier = kind;
  self.predicate = predicate != 0 ? 1 : 0;
  self.site = site;
  self.state = State::in_block;
  release_edge(&barrier_edge);
  block.arrived += 1;
  release_barrier_if_full();
  block.wait(self);
  acquire_edge(&barrier_edge);
  return static_cast<int>(self.result);
}

uint64_t collective(Collective purpose, unsigned mask, uint64_t value, int source, int width,
                    const char* site, void* fragment) {
  EmulatedThread& self = block.running();
  EmulatedThread* lanes = &block.threads[static_cast<size_t>(self.warp * 32)];
  const int n = std::min(32, block.count - self.warp * 32);
  const bool is_product = purpose == Collective::mma_m16n8k32 || purpose == Collective::mma_m8n8k16;
  // A last warp that is not full has no other lanes.
  if (n < 32 && mask == ~0u && !is_product) mask = (1u << n) - 1;
  self.purpose = purpose;
  self.mask = mask;
  self.value = value;
  self.source = source;
  self.width = width;
  self.site = site;
  self.fragment = static_cast<MmaFragment*>(fragment);
  if ((mask >> self.lane & 1) == 0) {
    fail("the calling lane is not in the mask of a warp's intrinsic", site);
  }
  // Only __syncwarp orders memory; a shuffle does not.
  if (purpose == Collective::sync) release_edge(&lanes->priority);
  self.state = State::in_warp;
  if (is_complete(self, lanes, n)) {
    perform(lanes, mask, purpose);
    for (int lane = 0; lane < n; ++lane) {
      if ((mask >> lane & 1) != 0) block.wake(lanes[lane]);
    }
  }
  block.wait(self);
  if (purpose == Collective::sync) acquire_edge(&lanes->priority);
  return self.result;
}

bool land_now() {
  const bool is_random = order() == Order::random || order() == Order::skew;
  return is_random && random_below(2) == 0;
}

void push_copy(void* to, const void* from, const char* site) {
  EmulatedThread& self = block.running();
  if (self.end_copy - self.first_copy == kMostCopies) fail("more than 64 copies under way", site);
  self.copies[self.end_copy++ % kMostCopies] = {to, from, self.copy_group};
}

void commit_copies() { block.running().copy_group += 1; }

bool pop_copy(int pending, void** to, const void** from) {
  EmulatedThread& self = block.running();
  const PendingCopy& copy = self.copies[self.first_copy % kMostCopies];
  if (self.first_copy == self.end_copy || copy.group >= self.copy_group - pending) return false;
  *to = copy.to;
  *from = copy.from;
  self.first_copy += 1;
  return true;
}

}  // namespace pythia_rt::cuda::emulator
