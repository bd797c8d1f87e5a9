#include "emulator/turns.h"

#include <cstdlib>
#include <mutex>
#include <string>
#include <utility>

#include "base/error.h"

namespace pythia_rt::cuda::emulator {

namespace {

std::mutex choice_mutex;
bool is_chosen = false;
Order chosen_order = Order::fifo;
uint64_t chosen_seed = 1;
bool is_choice_new = false;

// Of the launch that is under way.
Order order = Order::fifo;
uint64_t random_state = 1;

// SplitMix64.
uint64_t random() {
  random_state += 0x9e3779b97f4a7c15u;
  uint64_t bits = random_state;
  bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
  return bits ^ bits >> 31;
}

Order order_named(const std::string& name) {
  if (name == "fifo") return Order::fifo;
  if (name == "reverse") return Order::reverse;
  if (name == "random") return Order::random;
  if (name == "skew") return Order::skew;
  throw_invalid("PYTHIA_RT_EMULATOR_ORDER must be fifo, reverse, random or skew, not '", name, "'");
}

void choose(Order new_order, uint64_t seed) {
  chosen_order = new_order;
  chosen_seed = seed;
  is_chosen = is_choice_new = true;
}

}  // namespace

void set_order(Order new_order, uint64_t seed) {
  const std::lock_guard lock(choice_mutex);
  choose(new_order, seed);
}

void begin_order() {
  const std::lock_guard lock(choice_mutex);
  if (!is_chosen) {
    const char* name = std::getenv("PYTHIA_RT_EMULATOR_ORDER");
    const char* seed = std::getenv("PYTHIA_RT_EMULATOR_SEED");
    choose(order_named(name == nullptr ? "fifo" : name),
           seed == nullptr ? 1 : std::strtoull(seed, nullptr, 10));
  }
  if (!is_choice_new) return;
  is_choice_new = false;
  order = chosen_order;
  random_state = chosen_seed;
}

bool is_order_random() { return order == Order::random || order == Order::skew; }

uint64_t random_below(uint64_t n) { return (random() >> 32) * n >> 32; }

std::vector<unsigned> order_of_blocks(size_t count) {
  std::vector<unsigned> blocks(count);
  for (size_t i = 0; i < count; ++i) {
    blocks[i] = static_cast<unsigned>(order == Order::reverse ? count - 1 - i : i);
  }
  if (is_order_random()) {
    for (size_t i = count; i > 1; --i) std::swap(blocks[i - 1], blocks[random_below(i)]);
  }
  return blocks;
}

void ReadyThreads::begin_block(int count) {
  first_ = 0;
  count_ = 0;
  if (order != Order::skew) return;
  for (uint64_t& ranks : ranks_) ranks = 0;
  for (int i = 0; i < count; ++i) {
    const auto j = static_cast<int>(random_below(static_cast<uint64_t>(i) + 1));
    thread_of_[i] = thread_of_[j];
    thread_of_[j] = i;
  }
  for (int rank = 0; rank < count; ++rank) rank_of_[thread_of_[rank]] = rank;
}

void ReadyThreads::push(int thread) {
  count_ += 1;
  if (order == Order::skew) {
    ranks_[rank_of_[thread] / 64] |= uint64_t{1} << rank_of_[thread] % 64;
  } else {
    at(count_ - 1) = thread;
  }
}

int ReadyThreads::take() {
  switch (order) {
    case Order::fifo:
      break;
    case Order::reverse:
      return at(--count_);
    case Order::random:
      std::swap(at(0), at(static_cast<int>(random_below(static_cast<uint64_t>(count_)))));
      break;
    case Order::skew:
      return take_highest();
  }
  return take_first();
}

int ReadyThreads::take_first() {
  const int taken = at(0);
  first_ += 1;
  count_ -= 1;
  return taken;
}

int ReadyThreads::take_highest() {
  int i = kMostThreads / 64 - 1;
  while (ranks_[i] == 0) --i;
  const int bit = 63 - __builtin_clzll(ranks_[i]);
  ranks_[i] &= ~(uint64_t{1} << bit);
  count_ -= 1;
  return thread_of_[64 * i + bit];
}

}  // namespace pythia_rt::cuda::emulator
