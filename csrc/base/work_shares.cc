#include "base/work_shares.h"

#include <algorithm>
#include <cmath>

#include "base/rounding.h"

namespace pythia_rt {

namespace {

// What a worker takes at a time of its own share: a quarter of what is left of it, so that the
// pieces get small towards the end, when others may come to help.
constexpr uint32_t kPiecesOfShare = 4;
// Shorter regions are over before their threads have met.
constexpr double kTellingSeconds = 10e-6;
// How much of a region's lesson is believed: a worker that lost its processor once is soon trusted
// again.
constexpr double kLearningRate = 0.125;

constexpr uint64_t join(uint32_t begin, uint32_t end) { return uint64_t{begin} << 32 | end; }
constexpr uint32_t begin_of(uint64_t range) { return static_cast<uint32_t>(range >> 32); }
constexpr uint32_t end_of(uint64_t range) { return static_cast<uint32_t>(range); }
constexpr uint32_t length_of(uint64_t range) { return end_of(range) - begin_of(range); }

}  // namespace

WorkShares::WorkShares(int n_workers)
    : n_workers_(n_workers), workers_(new Worker[static_cast<size_t>(n_workers)]) {
  for (int i = 0; i < n_workers; ++i) workers_[static_cast<size_t>(i)].share = 1.0 / n_workers;
}

int64_t WorkShares::deal(const Load* loads, int n_loads, int64_t grain) {
  n_loads_ = n_loads;
  grain_ = grain;
  double total = 0;
  for (int i = 0; i < n_loads; ++i) {
    const auto grains = static_cast<uint32_t>(divide_up(loads[i].units, grain));
    loads_[static_cast<size_t>(i)] = loads[i];
    starts_[static_cast<size_t>(i) + 1] = starts_[static_cast<size_t>(i)] + grains;
    total += static_cast<double>(grains) * static_cast<double>(loads[i].cost);
  }
  const uint32_t all = starts_[static_cast<size_t>(n_loads)];
  uint32_t begin = 0;
  double until = 0;   // of the cost, for the workers so far
  int load = 0;       // in which `begin` lies
  double before = 0;  // cost of the loads before it
  for (int i = 0; i < n_workers_; ++i) {
    Worker& worker = workers_[static_cast<size_t>(i)];
    until += worker.share * total;
    uint32_t end = begin;
    for (; load < n_loads; ++load) {
      const auto index = static_cast<size_t>(load);
      const auto cost = static_cast<double>(loads[load].cost);
      const uint32_t size = starts_[index + 1] - starts_[index];
      const double grains = std::round((until - before) / cost);
      end = std::max(begin, starts_[index] + static_cast<uint32_t>(std::clamp<double>(
                                                 grains, 0.0, static_cast<double>(size))));
      if (end < starts_[index + 1]) break;
      before += static_cast<double>(size) * cost;
    }
    if (i == n_workers_ - 1) end = all;
    worker.left.store(join(begin, end), std::memory_order_relaxed);
    worker.speed = worker.seconds = 0;
    begin = end;
  }
  return all;
}

bool WorkShares::take_front(Worker& worker, uint32_t* begin, uint32_t* end) {
  Range range = worker.left.load(std::memory_order_relaxed);
  while (length_of(range) > 0) {
    const uint32_t first = begin_of(range);
    uint32_t last = first + std::max<uint32_t>(length_of(range) / kPiecesOfShare, 1);
    for (int i = 1; i < n_loads_; ++i) {  // a piece is of one load
      const uint32_t start = starts_[static_cast<size_t>(i)];
      if (first < start) last = std::min(last, start);
    }
    if (worker.left.compare_exchange_weak(range, join(last, end_of(range)),
                                          std::memory_order_relaxed)) {
      *begin = first;
      *end = last;
      return true;
    }
  }
  return false;
}

// A range that was seen may have changed hands and come back since: it is then free as before, for
// a unit that anybody has taken to do is in no range any more.
bool WorkShares::take_rear_half(int thief) {
  for (;;) {
    Worker* victim = nullptr;
    Range range = 0;
    for (int i = 0; i < n_workers_; ++i) {
      Worker& worker = workers_[static_cast<size_t>(i)];
      const Range left = worker.left.load(std::memory_order_relaxed);
      if (length_of(left) > length_of(range)) {
        victim = &worker;
        range = left;
      }
    }
    if (victim == nullptr) return false;
    const uint32_t middle = begin_of(range) + length_of(range) / 2;
    if (victim->left.compare_exchange_strong(range, join(begin_of(range), middle),
                                             std::memory_order_relaxed)) {
      workers_[static_cast<size_t>(thief)].left.store(join(middle, end_of(range)),
                                                      std::memory_order_relaxed);
      return true;
    }
  }
}

bool WorkShares::take(int worker, Piece* piece) {
  uint32_t begin = 0, end = 0;
  while (!take_front(workers_[static_cast<size_t>(worker)], &begin, &end)) {
    if (!take_rear_half(worker)) return false;
  }
  int load = 0;
  while (begin >= starts_[static_cast<size_t>(load) + 1]) ++load;
  const uint32_t start = starts_[static_cast<size_t>(load)];
  const int64_t units = loads_[static_cast<size_t>(load)].units;
  *piece = {load, (begin - start) * grain_, std::min((end - start) * grain_, units)};
  return true;
}

void WorkShares::give_up() {
  for (int i = 0; i < n_workers_; ++i) workers_[static_cast<size_t>(i)].left.store(0);
}

void WorkShares::note(int worker, int64_t cost, double seconds) {
  Worker& self = workers_[static_cast<size_t>(worker)];
  self.seconds = seconds;
  self.speed = seconds > 0 ? static_cast<double>(cost) / seconds : 0;
}

void WorkShares::learn() {
  double speeds = 0, shares = 0;  // of those that took part
  for (int i = 0; i < n_workers_; ++i) {
    const Worker& worker = workers_[static_cast<size_t>(i)];
    if (worker.seconds > 0 && worker.seconds < kTellingSeconds) return;
    if (worker.speed <= 0) continue;
    speeds += worker.speed;
    shares += worker.share;
  }
  if (speeds <= 0) return;
  for (int i = 0; i < n_workers_; ++i) {
    Worker& worker = workers_[static_cast<size_t>(i)];
    if (worker.speed <= 0) continue;
    worker.share += kLearningRate * (worker.speed / speeds * shares - worker.share);
  }
}

}  // namespace pythia_rt
