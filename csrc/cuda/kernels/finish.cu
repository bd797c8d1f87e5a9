// What products do with their results (epilogue.cuh), by itself: a thread for each value.
#include "base/rounding.h"
#include "cuda/kernels/epilogue.cuh"
#include "cuda/kernels/launch.h"
#include "cuda/port.cuh"

namespace pythia_rt::cuda {

namespace {

constexpr int kThreads = 256;

}  // namespace

// A thread block for kThreads columns of a row.
__global__ void __launch_bounds__(kThreads) finish_kernel(Epilogue epilogue, Rows in, Rows out) {
  const int64_t parts = divide_up(in.width, kThreads);
  const int64_t row = blockIdx.x / parts;
  const int64_t column = blockIdx.x % parts * kThreads + threadIdx.x;
  if (column >= in.width) return;
  float* place = out.data + row * out.stride + column;
  *place = finished(epilogue, in.data[row * in.stride + column], place);
}

// A thread block for kThreads columns of a row of `out`.
__global__ void __launch_bounds__(kThreads)
    finish_gated_kernel(Epilogue epilogue, Rows in, Rows out) {
  const int64_t parts = divide_up(out.width, kThreads);
  const int64_t row = blockIdx.x / parts;
  const int64_t column = blockIdx.x % parts * kThreads + threadIdx.x;
  if (column >= out.width) return;
  constexpr int kBlock = 16;
  const float* gate = in.data + row * in.stride + column / kBlock * 2 * kBlock + column % kBlock;
  float* place = out.data + row * out.stride + column;
  *place = finished(epilogue, *gate, place) * gate[kBlock];
}

void finish(Stream stream, Epilogue epilogue, Rows in, Rows out) {
  const int64_t blocks = in.count * divide_up(in.width, kThreads);
  LAUNCH(finish_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), stream, epilogue, in,
         out);
}

void finish_gated(Stream stream, Epilogue epilogue, Rows in, Rows out) {
  const int64_t blocks = out.count * divide_up(out.width, kThreads);
  LAUNCH(finish_gated_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), stream, epilogue,
         in, out);
}

}  // namespace pythia_rt::cuda
