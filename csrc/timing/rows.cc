// Kernels that go over activations row by row, cut into tasks as backend/cpu.cc cuts them.
#include <algorithm>

#include "base/rounding.h"
#include "base/thread_pool.h"
#include "timing/activations.h"
#include "timing/workloads.h"

namespace pythia_rt {

namespace {

constexpr int64_t kSmallWork = 16 * 1024;

double count(int64_t tokens, int64_t columns) {
  return static_cast<double>(tokens) * static_cast<double>(columns);
}

// Calls function(begin, end) over rows of this width.
template <typename Function>
void each_row(ThreadPool& pool, const ActivationRows& rows, const Function& function) {
  const int64_t step = std::max<int64_t>(1, divide_up(kSmallWork, rows.width()));
  pool.run(divide_up(rows.count(), step), [&](int64_t task, int) {
    function(task * step, std::min(rows.count(), (task + 1) * step));
  });
}

class Norm : public Workload {
 public:
  Norm(const KernelTable& kernels, int64_t tokens, int64_t columns)
      : Workload(kBytes * count(tokens, columns), kOperations * count(tokens, columns)),
        kernel_(kernels.layer_norm),
        in_(tokens, columns),
        out_(tokens, columns),
        parameters_(2, columns) {}

 protected:
  void pass(ThreadPool& pool, int64_t) override {
    const float* weight = parameters_.data();
    each_row(pool, in_, [&](int64_t begin, int64_t end) {
      kernel_({in_.data(), weight, weight + parameters_.stride(), out_.data(), in_.width(),
               in_.stride(), 1e-5f, begin, end});
    });
  }

 private:
  static constexpr double kBytes = 4 + 4;
  // The mean: 1; the variance: 3; centred, scaled, times the weight, plus the bias: 4.
  static constexpr double kOperations = 8;

  void (*kernel_)(const NormArguments&);
  ActivationRows in_, out_, parameters_;
};

class Quantise : public Workload {
 public:
  Quantise(const KernelTable& kernels, int64_t tokens, int64_t columns)
      : Workload(kBytes * count(tokens, columns), kOperations * count(tokens, columns)),
        kernel_(kernels.quantise),
        in_(tokens, columns),
        out_(tokens, columns) {}

 protected:
  void pass(ThreadPool& pool, int64_t) override {
    each_row(pool, in_, [&](int64_t begin, int64_t end) {
      kernel_({in_.data(), in_.stride(), out_.groups(), out_.rows(), begin, end});
    });
  }

 private:
  static constexpr double kBytes = 4 + 1;
  // Magnitude, the largest, times the inverse scale, rounded, summed.
  static constexpr double kOperations = 5;

  void (*kernel_)(const QuantiseArguments&);
  ActivationRows in_;
  QuantisedBuffer out_;
};

}  // namespace

std::unique_ptr<Workload> norm_workload(const KernelTable& kernels, int64_t tokens,
                                        int64_t columns) {
  return std::make_unique<Norm>(kernels, tokens, columns);
}

std::unique_ptr<Workload> quantise_workload(const KernelTable& kernels, int64_t tokens,
                                            int64_t columns) {
  return std::make_unique<Quantise>(kernels, tokens, columns);
}

}  // namespace pythia_rt
