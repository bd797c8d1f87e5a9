// Who of a pool's threads does which part of a region whose work is a line of equal units.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

namespace pythia_rt {

// `units` pieces of work in a row, each as long as `cost` says, in whatever measure all loads of
// one region share.
struct Load {
  int64_t units;
  int64_t cost;
};

// Some consecutive units of one load.
struct Piece {
  int load;
  int64_t begin, end;
};

// The units of one or two loads stand on one line, of which each worker is dealt a share: one
// stretch, which it reads strictly forward. A share is as large as its worker was fast in the
// regions before, so that a slow core gets less (arXiv 2411.19542). A worker that has finished its
// own takes the rear half of the largest rest that is left, so that nobody waits for one that lost
// its processor, or comes late, longer than it takes to do one piece.
//
// deal() and learn() are for one thread, while nobody takes; take() for all of them. Who does a
// unit is up to chance, but each is done once.
class WorkShares {
 public:
  static constexpr int kMaxLoads = 2;

  explicit WorkShares(int n_workers);

  // A piece begins at a multiple of `grain` units and ends at one or at its load's end. Returns how
  // many grains there are, which is how many workers can be of use. No more than 2^31 grains.
  int64_t deal(const Load* loads, int n_loads, int64_t grain);

  // The worker's next piece; false when nothing is left for it.
  bool take(int worker, Piece* piece);

  // Nothing is left for anybody.
  void give_up();

  // What a worker did in this region, from its first piece to its last.
  void note(int worker, int64_t cost, double seconds);

  // Draws from the notes. A region that was over at once teaches nothing.
  void learn();

  // By which part of the work is dealt; all of them make 1.
  double share(int worker) const { return workers_[static_cast<size_t>(worker)].share; }

 private:
  // Two 32-bit grains, so that both change at once: the first that is left and the one after the
  // last.
  using Range = uint64_t;

  struct alignas(64) Worker {
    std::atomic<Range> left{0};
    double share = 0;
    double speed = 0;  // of this region: cost a second; 0 where it did nothing
    double seconds = 0;
  };

  bool take_front(Worker& worker, uint32_t* begin, uint32_t* end);
  bool take_rear_half(int thief);

  int n_workers_;
  std::unique_ptr<Worker[]> workers_;
  std::array<Load, kMaxLoads> loads_{};
  std::array<uint32_t, kMaxLoads + 1> starts_{};  // of the loads, in grains, and their end
  int n_loads_ = 0;
  int64_t grain_ = 1;
};

}  // namespace pythia_rt
