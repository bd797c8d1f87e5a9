// Activations to 8 bits (kernels/quantise.inl): half a warp for each group of 64 columns.
#include <algorithm>

#include "base/rounding.h"
#include "cuda/kernels/lanes.cuh"
#include "cuda/kernels/launch.h"
#include "cuda/port.cuh"

namespace pythia_rt::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kGroupsPerBlock = kThreads / kLanes;

__device__ __forceinline__ unsigned code_of(float x, float inverse) {
  return static_cast<uint8_t>(__float2int_rn(x * inverse));
}

}  // namespace

// A thread has four columns of its group.
__global__ void __launch_bounds__(kThreads)
    quantise_kernel(QuantiseTask first, QuantiseTask second) {
  const QuantiseTask task = blockIdx.y == 0 ? first : second;
  const int64_t groups = divide_up(task.in.width, kColumnGroup);
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kGroupsPerBlock + threadIdx.x / kLanes;
  const int64_t row = index / groups;
  const int64_t column = index % groups * kColumnGroup + threadIdx.x % kLanes * 4;
  const bool is_there = row < task.in.count;  // all lanes must reach the shuffles
  float4 x = {0.0f, 0.0f, 0.0f, 0.0f};
  if (is_there) {
    x = *reinterpret_cast<const float4*>(task.in.data + row * task.in.stride + column);
  }
  const float largest =
      reduce_max(larger(larger(fabsf(x.x), fabsf(x.y)), larger(fabsf(x.z), fabsf(x.w))));
  if (!is_there) return;
  const bool is_zero = largest < 1e-36f;
  const float inverse = is_zero ? 0.0f : 127.0f / largest;
  const unsigned codes = code_of(x.x, inverse) | code_of(x.y, inverse) << 8 |
                         code_of(x.z, inverse) << 16 | code_of(x.w, inverse) << 24;
  *reinterpret_cast<unsigned*>(task.out.codes + row * task.out.stride + column) = codes;
  if (threadIdx.x % kLanes == 0) {
    task.out.scales[row * (task.out.stride / kColumnGroup) + column / kColumnGroup] =
        is_zero ? 0.0f : largest / 127.0f;
  }
}

void quantise(Stream stream, const QuantiseTask* tasks, int n_tasks) {
  int64_t groups = 0;
  for (int i = 0; i < n_tasks; ++i) {
    groups = std::max(groups, tasks[i].in.count * divide_up(tasks[i].in.width, kColumnGroup));
  }
  const dim3 grid(static_cast<unsigned>(divide_up(groups, kGroupsPerBlock)),
                  static_cast<unsigned>(n_tasks));
  LAUNCH(quantise_kernel, grid, dim3(kThreads), stream, tasks[0], tasks[n_tasks - 1]);
}

}  // namespace pythia_rt::cuda
