#include "kernels/softmax.h"

#include <algorithm>
#include <vector>

#include "base/rounding.h"

namespace pythia_rt {

SoftmaxTerm softmax(const KernelTable& kernels, const float* logits, int64_t n, int64_t index) {
  const int64_t n_runs = divide_up(n, kSoftmaxRun);
  std::vector<float> runs(static_cast<size_t>(2 * n_runs));
  float* largest = runs.data();
  float* sums = largest + n_runs;
  for (int64_t run = 0; run < n_runs; ++run) {
    const int64_t begin = run * kSoftmaxRun;
    kernels.softmax_run(logits + begin, std::min(kSoftmaxRun, n - begin), largest + run,
                        sums + run);
  }
  SoftmaxTerm term{logits[index], 0, 0};
  kernels.softmax_merge(largest, sums, n_runs, &term.largest, &term.sum);
  return term;
}

}  // namespace pythia_rt
