// Kernels that go over activations row by row.
#include "kernels/tasks.h"
#include "timing/activations.h"
#include "timing/workloads.h"

namespace pythia_rt {

namespace {

// `bytes` and `operations` are those of one value.
template <typename Out>
class RowWorkload : public Workload {
 public:
  RowWorkload(int64_t tokens, int64_t columns, double bytes, double operations)
      : Workload(bytes * count(tokens, columns), operations * count(tokens, columns)),
        in_(tokens, columns),
        out_(tokens, columns) {}

 protected:
  const ActivationRows in_;
  const Out out_;

 private:
  static double count(int64_t tokens, int64_t columns) {
    return static_cast<double>(tokens) * static_cast<double>(columns);
  }
};

class Norm : public RowWorkload<ActivationRows> {
 public:
  Norm(const KernelTable& kernels, int64_t tokens, int64_t columns)
      : RowWorkload(tokens, columns, kBytes, kOperations),
        kernel_(kernels.layer_norm),
        parameters_(2, columns) {}

 protected:
  void pass(ThreadPool& pool, int64_t) override {
    const float* weight = parameters_.data();
    each_row(pool, in_.count(), in_.width(), [&](int64_t begin, int64_t end) {
      kernel_({in_.data(), weight, weight + parameters_.stride(), out_.data(), in_.width(),
               in_.stride(), 1e-5f, begin, end});
    });
  }

 private:
  static constexpr double kBytes = 4 + 4;
  // The mean: 1; the variance: 3; centred, scaled, times the weight, plus the bias: 4.
  static constexpr double kOperations = 8;

  void (*kernel_)(const NormArguments&);
  ActivationRows parameters_;
};

class Quantise : public RowWorkload<QuantisedBuffer> {
 public:
  Quantise(const KernelTable& kernels, int64_t tokens, int64_t columns)
      : RowWorkload(tokens, columns, kBytes, kOperations), kernel_(kernels.quantise) {}

 protected:
  void pass(ThreadPool& pool, int64_t) override {
    each_row(pool, in_.count(), in_.width(), [&](int64_t begin, int64_t end) {
      kernel_({in_.data(), in_.stride(), out_.groups(), out_.rows(), begin, end});
    });
  }

 private:
  static constexpr double kBytes = 4 + 1;
  // Magnitude, the largest, times the inverse scale, rounded, summed.
  static constexpr double kOperations = 5;

  void (*kernel_)(const QuantiseArguments&);
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
