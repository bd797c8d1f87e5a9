// The softmax of rows of logits at one logit each (kernels/softmax.inl): runs of kSoftmaxRun logits
// by themselves, then all runs of a row.
#include "base/rounding.h"
#include "cuda/kernels/lanes.cuh"
#include "cuda/kernels/launch.h"
#include "cuda/port.cuh"

namespace pythia_rt::cuda {

namespace {

constexpr int kThreads = 128;

// Of values[n], by half a warp; the whole warp must call. Every lane gets the result.
__device__ __forceinline__ float largest_of(const float* values, int64_t n) {
  float largest = __uint_as_float(0xff800000u);  // minus infinity
  for (int64_t i = threadIdx.x % kLanes; i < n; i += kLanes) largest = larger(largest, values[i]);
  return reduce_max(largest);
}

}  // namespace

// A thread block a run of a row.
__global__ void __launch_bounds__(kThreads)
    softmax_run_kernel(Rows logits, int64_t n_runs, float* run_largest, float* run_sums) {
  SHARED(float, values, [kSoftmaxRun]);
  SHARED(float, shared_largest, [1]);
  const int64_t row = blockIdx.x / n_runs;
  const int64_t begin = blockIdx.x % n_runs * kSoftmaxRun;
  const int64_t left = logits.width - begin;
  const auto n = static_cast<int>(left < kSoftmaxRun ? left : kSoftmaxRun);
  const float* in = logits.data + row * logits.stride + begin;
  for (int i = threadIdx.x; i < n; i += kThreads) values[i] = in[i];
  __syncthreads();
  if (threadIdx.x < kWarp) {
    const float largest = largest_of(values, n);
    if (threadIdx.x == 0) *shared_largest = largest;
  }
  __syncthreads();
  const float largest = *shared_largest;
  for (int i = threadIdx.x; i < n; i += kThreads) values[i] = exp(values[i] - largest);
  __syncthreads();
  if (threadIdx.x >= kWarp) return;
  float total = 0.0f;
  for (int i = threadIdx.x % kLanes; i < n; i += kLanes) total = total + values[i];
  const float sum = reduce_add(total);
  if (threadIdx.x == 0) {
    run_largest[blockIdx.x] = largest;
    run_sums[blockIdx.x] = sum;
  }
}

// A warp a row.
__global__ void __launch_bounds__(kWarp)
    softmax_merge_kernel(Rows logits, int64_t n_runs, const float* run_largest,
                         const float* run_sums, const int32_t* targets, SoftmaxTerm* out) {
  const int64_t row = blockIdx.x;
  const float* row_largest = run_largest + row * n_runs;
  const float* row_sums = run_sums + row * n_runs;
  const float largest = largest_of(row_largest, n_runs);
  float total = 0.0f;
  for (int64_t i = threadIdx.x % kLanes; i < n_runs; i += kLanes) {
    total = fmaf(row_sums[i], exp(row_largest[i] - largest), total);
  }
  const float sum = reduce_add(total);
  if (threadIdx.x == 0) {
    out[row] = {logits.data[row * logits.stride + targets[row]], largest, sum};
  }
}

void softmax(Stream stream, Rows logits, const int32_t* targets, float* scratch, SoftmaxTerm* out) {
  const int64_t n_runs = divide_up(logits.width, kSoftmaxRun);
  float* largest = scratch;  // [rows][n_runs]
  float* sums = scratch + logits.count * n_runs;
  LAUNCH(softmax_run_kernel, dim3(static_cast<unsigned>(logits.count * n_runs)), dim3(kThreads),
         stream, logits, n_runs, largest, sums);
  LAUNCH(softmax_merge_kernel, dim3(static_cast<unsigned>(logits.count)), dim3(kWarp), stream,
         logits, n_runs, largest, sums, targets, out);
}

}  // namespace pythia_rt::cuda
