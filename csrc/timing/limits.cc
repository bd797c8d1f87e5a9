// Limits as workloads: the loops of limits/, on all threads.
#include <algorithm>
#include <atomic>

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
  void pass(ThreadPool& pool, int64_t) override {
    const auto* values = reinterpret_cast<const float*>(pages_.data());
    const auto count = static_cast<int64_t>(pages_.size() / sizeof(float));
    pool.run(divide_up(count, kPiece), [&](int64_t piece, int) {
      const int64_t begin = piece * kPiece;
      g_result = limits_.read(values + begin, std::min(kPiece, count - begin));
    });
  }

 private:
  static constexpr int64_t kPiece = int64_t{1} << 19;  // 2 MiB: page buffers are whole ones

  const LimitTable& limits_;
  const PageBuffer& pages_;
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
