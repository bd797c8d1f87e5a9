// Layer and RMS norm (kernels/norm.inl) of rows through one or two norms: a thread block a row.
//
// Sums run in 16 lanes, element i in lane i % 16, as on the CPU: 16 threads follow a lane each over
// the row in shared memory, where reading costs little, while the whole block loads and writes.
#include "base/rounding.h"
#include "cuda/kernels/lanes.cuh"
#include "cuda/kernels/launch.h"
#include "cuda/port.cuh"

namespace pythia_rt::cuda {

namespace {

constexpr int kThreads = 256;
// Elements in shared memory at a time, so that most models' rows are read only once.
constexpr int kPiece = 6144;

}  // namespace

struct Norms {
  Norm norms[2];
  int n;
};

namespace {

// Elements [begin, begin + kPiece) of a row, up to `end`, a multiple of 16.
__device__ __forceinline__ void load_piece(const float* row, int64_t begin, int64_t end,
                                           float* piece) {
  for (int64_t i = begin + 4 * threadIdx.x; i < end && i < begin + kPiece; i += 4 * kThreads) {
    *reinterpret_cast<float4*>(piece + (i - begin)) = *reinterpret_cast<const float4*>(row + i);
  }
}

// sum over a lane's elements of (x - centre)^2, or of x; of n elements, the padding left out.
template <bool kSquares>
__device__ __forceinline__ float add_lane(const float* piece, int n, float centre, float sum) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
#pragma unroll 8
  for (int i = lane; i < n; i += kLanes) {
    if constexpr (kSquares) {
      const float centred = piece[i] - centre;
      sum = fmaf(centred, centred, sum);
    } else {
      sum = sum + piece[i];
    }
  }
  return sum;
}

// The sum over a row, known to all threads when it returns. With kAgain, a row that fits into one
// piece is in shared memory already.
template <bool kSquares, bool kAgain>
__device__ __forceinline__ float sum_row(const float* row, int64_t width, float centre,
                                         float* piece, float* result) {
  const int64_t end = round_up(width, kLanes);
  float sum = 0.0f;
  for (int64_t begin = 0; begin < end; begin += kPiece) {
    if (!kAgain || end > kPiece) {
      __syncthreads();
      load_piece(row, begin, end, piece);
      __syncthreads();
    }
    if (threadIdx.x < kWarp) {
      const int64_t left = width - begin;
      sum = add_lane<kSquares>(piece, static_cast<int>(left < kPiece ? left : kPiece), centre, sum);
    }
  }
  if (threadIdx.x < kWarp) {
    const float total = reduce_add(sum);
    if (threadIdx.x == 0) *result = total;
  }
  __syncthreads();
  return *result;
}

template <bool kCentres>
__device__ __forceinline__ float normalised(float x, float mean, float inverse, float weight,
                                            float bias) {
  if constexpr (kCentres) return fmaf((x - mean) * inverse, weight, bias);
  return x * inverse * weight;
}

// A layer norm if kCentres, else an RMS norm, which is one without a mean and without a bias.
template <bool kCentres>
__device__ __forceinline__ void norm_row(const Rows& in, const Norms& norms, float* piece,
                                         float* sums) {
  const float* row = in.data + blockIdx.x * in.stride;
  const auto width = static_cast<float>(in.width);
  float mean = 0.0f;
  if constexpr (kCentres) {
    mean = sum_row<false, false>(row, in.width, 0.0f, piece, &sums[0]) / width;
  }
  const float variance = sum_row<true, kCentres>(row, in.width, mean, piece, &sums[1]) / width;
  const int64_t end = round_up(in.width, kLanes);
  const bool is_whole = end <= kPiece;  // else `piece` has only the row's end
  for (int64_t i = 4 * threadIdx.x; i < end; i += 4 * kThreads) {
    const float4 x = *reinterpret_cast<const float4*>(is_whole ? piece + i : row + i);
#pragma unroll
    for (int task = 0; task < 2; ++task) {  // unrolled: an index would need the tasks in memory
      if (task >= norms.n) break;
      const NormParameters& norm = norms.norms[task].parameters;
      const Rows& out = norms.norms[task].out;
      const float inverse = 1.0f / sqrtf(variance + norm.epsilon);
      const float4 weight = *reinterpret_cast<const float4*>(norm.weight + i);
      float4 bias = {};
      if constexpr (kCentres) bias = *reinterpret_cast<const float4*>(norm.bias + i);
      float4 y;
      y.x = normalised<kCentres>(x.x, mean, inverse, weight.x, bias.x);
      y.y = i + 1 < in.width ? normalised<kCentres>(x.y, mean, inverse, weight.y, bias.y) : 0.0f;
      y.z = i + 2 < in.width ? normalised<kCentres>(x.z, mean, inverse, weight.z, bias.z) : 0.0f;
      y.w = i + 3 < in.width ? normalised<kCentres>(x.w, mean, inverse, weight.w, bias.w) : 0.0f;
      if (i >= in.width) y.x = 0.0f;
      *reinterpret_cast<float4*>(out.data + blockIdx.x * out.stride + i) = y;
    }
  }
}

}  // namespace

__global__ void __launch_bounds__(kThreads) layer_norm_kernel(Rows in, Norms norms) {
  SHARED(float, piece, [kPiece]);
  SHARED(float, sums, [2]);
  norm_row<true>(in, norms, piece, sums);
}

__global__ void __launch_bounds__(kThreads) rms_norm_kernel(Rows in, Norms norms) {
  SHARED(float, piece, [kPiece]);
  SHARED(float, sums, [2]);
  norm_row<false>(in, norms, piece, sums);
}

void norm(Stream stream, Rows in, const Norm* given, int n_given) {
  const Norms norms{{given[0], given[n_given - 1]}, n_given};
  const dim3 blocks(static_cast<unsigned>(in.count)), threads(kThreads);
  if (given[0].parameters.centres) {
    LAUNCH(layer_norm_kernel, blocks, threads, stream, in, norms);
  } else {
    LAUNCH(rms_norm_kernel, blocks, threads, stream, in, norms);
  }
}

}  // namespace pythia_rt::cuda
