// Whose turn it is: the orders of threads and blocks.
#pragma once

#include <cstdint>
#include <vector>

#include "emulator/scheduler.h"

namespace pythia_rt::cuda::emulator {

// Before a launch: takes set_order()'s order, or the environment's.
void begin_order();

// Whether the order draws what it can, and a number below n that its seed decides.
bool is_order_random();
uint64_t random_below(uint64_t n);

// The numbers of a grid's blocks, in the order in which they run.
std::vector<unsigned> order_of_blocks(size_t count);

// The threads of a block that can go on, known by their index.
class ReadyThreads {
 public:
  void begin_block(int count);
  int count() const { return count_; }
  void push(int thread);
  int take();

 private:
  // Where they stand in the order of their arrival: a ring.
  int& at(int i) { return ring_[(first_ + static_cast<unsigned>(i)) % unsigned{kMostThreads}]; }
  int take_first();
  int take_highest();

  int ring_[kMostThreads];
  unsigned first_ = 0;
  int count_ = 0;
  // For the order "skew", in place of the ring: whose rank is the highest goes first.
  int rank_of_[kMostThreads];
  int thread_of_[kMostThreads];
  uint64_t ranks_[kMostThreads / 64];  // as bits
};

}  // namespace pythia_rt::cuda::emulator
