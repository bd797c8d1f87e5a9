// Limits as workloads: the loops of limits/, on all threads.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>

#include "base/rounding.h"
#include "base/thread_pool.h"
#include "timing/workloads.h"

namespace pythia_rt {

namespace {

// Whatever loops compute ends here, so that none of it can be left out.
std::atomic<float> g_result{0};

class ReadBuffer : public Workload {
 public:
  ReadBuffer(const LimitTable& limits, const PageBuffer& pages)
      : Workload(static_cast<double>(pages.size()), 0), limits_(limits), pages_(pages) {}

 protected:
  // The first passes find out which loop is the faster one here; the rest use it.
  void pass(ThreadPool& pool, int64_t index) override {
    if (index >= kTrials) return read(pool, fastest_[0] <= fastest_[1] ? 0 : 1);
    const auto start = std::chrono::steady_clock::now();
    read(pool, static_cast<int>(index % 2));
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    fastest_[index % 2] = std::min(fastest_[index % 2], seconds.count());
  }

 private:
  void read(ThreadPool& pool, int loop) {
    const auto* values = reinterpret_cast<const float*>(pages_.data());
    const auto count = static_cast<int64_t>(pages_.size() / sizeof(float));
    pool.run(divide_up(count, kPiece), [&](int64_t piece, int) {
      const int64_t begin = piece * kPiece;
      g_result = limits_.read[loop](values + begin, std::min(kPiece, count - begin));
    });
  }

  static constexpr int64_t kTrials = 8;
  static constexpr int64_t kPiece = int64_t{1} << 19;  // 2 MiB: page buffers are whole ones

  const LimitTable& limits_;
  const PageBuffer& pages_;
  double fastest_[2] = {HUGE_VAL, HUGE_VAL};  // seconds of a pass
};

constexpr int64_t kTasks = 16;                 // several per thread, whatever machine this is
constexpr int64_t kRounds = int64_t{1} << 14;  // some 50 us with wide registers

class Multiply : public Workload {
 public:
  explicit Multiply(const MultiplyLoop& loop)
      : Workload(0, static_cast<double>(kTasks * kRounds * loop.operations)), loop_(loop) {
    std::fill(std::begin(operands_), std::end(operands_), uint8_t{0x3a});
  }

 protected:
  void pass(ThreadPool& pool, int64_t) override {
    pool.run(kTasks, [&](int64_t, int) { g_result = loop_.run(operands_, kRounds); });
  }

 private:
  const MultiplyLoop& loop_;
  alignas(64) uint8_t operands_[4096];
};

}  // namespace

std::unique_ptr<Workload> read_workload(const LimitTable& limits, const PageBuffer& pages) {
  return std::make_unique<ReadBuffer>(limits, pages);
}

std::unique_ptr<Workload> multiply_workload(const MultiplyLoop& loop) {
  return std::make_unique<Multiply>(loop);
}

}  // namespace pythia_rt
