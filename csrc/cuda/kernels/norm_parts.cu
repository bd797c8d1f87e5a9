// Layer and RMS norm (kernels/norm.inl) of parts of rows, in place: half a warp a part.
//
// A lane sums, scales and writes the elements i with i % 16 == lane, as on the CPU, so nobody reads
// what another one has changed.
#include "base/rounding.h"
#include "cuda/kernels/lanes.cuh"
#include "cuda/kernels/launch.h"
#include "cuda/port.cuh"

namespace pythia_rt::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kPartsPerBlock = kThreads / kLanes;

}  // namespace

__global__ void __launch_bounds__(kThreads)
    norm_parts_kernel(NormParameters parameters, int64_t n_parts, Rows rows) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kPartsPerBlock + threadIdx.x / kLanes;
  const int64_t width = rows.width / n_parts;
  const auto size = static_cast<float>(width);
  const int64_t part = index % n_parts * width;
  // All lanes must reach the shuffles: those without a part have one of no elements.
  const int64_t end = index < rows.count * n_parts ? width : 0;
  float* x = rows.data + index / n_parts * rows.stride + part;
  const int64_t lane = threadIdx.x % kLanes;
  float mean = 0.0f, squares = 0.0f;
  if (parameters.centres) {
    float total = 0.0f;
    for (int64_t i = lane; i < end; i += kLanes) total = total + x[i];
    mean = reduce_add(total) / size;
  }
  for (int64_t i = lane; i < end; i += kLanes) {
    const float centred = parameters.centres ? x[i] - mean : x[i];
    squares = fmaf(centred, centred, squares);
  }
  const float inverse = 1.0f / sqrtf(reduce_add(squares) / size + parameters.epsilon);
  for (int64_t i = lane; i < end; i += kLanes) {
    const float weight = parameters.weight[part + i];
    x[i] = parameters.centres ? fmaf((x[i] - mean) * inverse, weight, parameters.bias[part + i])
                              : x[i] * inverse * weight;
  }
}

void norm_parts(Stream stream, const NormParameters& parameters, int64_t n_parts, Rows rows) {
  const dim3 grid(static_cast<unsigned>(divide_up(rows.count * n_parts, kPartsPerBlock)));
  LAUNCH(norm_parts_kernel, grid, dim3(kThreads), stream, parameters, n_parts, rows);
}

}  // namespace pythia_rt::cuda
