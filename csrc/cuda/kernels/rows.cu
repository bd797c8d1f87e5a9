// Kernels that fetch rows: of an embedding and of positions, or of other rows.
#include "base/rounding.h"
#include "cuda/kernels/launch.h"
#include "cuda/kernels/weights_float.cuh"
#include "cuda/port.cuh"
#include "formats/types.h"

namespace pythia_rt::cuda {

namespace {

constexpr int kThreads = 256;

// Eight levels of a table format in one number, the first in its lowest byte: device code may not
// read an array of the host, but what was computed from it.
constexpr uint64_t levels_of(const uint8_t* table, int first) {
  uint64_t levels = 0;
  for (int i = 7; i >= 0; --i) levels = levels << 8 | table[first + i];
  return levels;
}

template <typename Type>
__device__ __forceinline__ int level_of(int code) {
  if constexpr (Type::kBits == 4) {
    constexpr uint64_t kLow = levels_of(Type::kTable, 0);
    constexpr uint64_t kHigh = levels_of(Type::kTable, 8);
    const uint64_t levels = code < 8 ? kLow : kHigh;
    return static_cast<int>(levels >> (code % 8 * 8) & 255) - Type::kOffset;
  } else {
    return code - Type::kOffset;
  }
}

__device__ __forceinline__ float square_scale(int8_t code, float unit) {
  const auto c = static_cast<float>(code);
  return c * fabsf(c) * unit;
}

// A weight of a format below 8 bits.
template <typename Type>
__device__ float narrow_weight(const Matrix& matrix, int64_t row, int64_t column) {
  const int64_t groups = divide_up(matrix.columns, kColumnGroup);
  const int64_t block = row / kRowBlock;
  const auto lane = static_cast<int>(row % kRowBlock);
  const int64_t group = block * groups + column / kColumnGroup;
  const auto* codes = static_cast<const uint8_t*>(matrix.weight) + group * Type::kGroupBytes;
  const auto* scales = static_cast<const int8_t*>(matrix.scales) + group * kRowBlock;
  const int code = Type::Layout::load(codes, lane, column % kColumnGroup);
  return static_cast<float>(level_of<Type>(code)) * square_scale(scales[lane], matrix.units[block]);
}

template <typename Type>
__device__ float byte_weight(const Matrix& matrix, int64_t row, int64_t column) {
  const int64_t groups = divide_up(matrix.columns, kColumnGroup);
  const int64_t lane = row % kRowBlock;
  const int64_t group = row / kRowBlock * groups + column / kColumnGroup;
  const auto* codes = static_cast<const uint8_t*>(matrix.weight) + group * Type::kGroupBytes;
  const auto* scales = static_cast<const uint16_t*>(matrix.scales) + group * kRowBlock;
  const int code = codes[tile_byte(lane, column % kColumnGroup)] - Type::kOffset;
  return static_cast<float>(code) * half_to_float(scales[lane]);
}

template <typename Type>
__device__ float float_weight(const Matrix& matrix, int64_t row, int64_t column) {
  const int64_t padded_columns = round_up(matrix.columns, kColumnGroup);
  const int64_t index = (row / kRowBlock * padded_columns + column) * kRowBlock + row % kRowBlock;
  return value_of(Type{}, static_cast<const typename Type::Value*>(matrix.weight)[index]);
}

template <typename Type>
__device__ float weight_of(const Matrix& matrix, int64_t row, int64_t column) {
  if constexpr (!Type::kQuantised) {
    return float_weight<Type>(matrix, row, column);
  } else if constexpr (Type::kSquareScales) {
    return narrow_weight<Type>(matrix, row, column);
  } else {
    return byte_weight<Type>(matrix, row, column);
  }
}

__device__ float weight_at(const Matrix& matrix, int64_t row, int64_t column) {
  switch (matrix.format) {
#define PYTHIA_RT_FORMAT(type, name) \
  case Format::name:                 \
    return weight_of<type>(matrix, row, column);
#include "formats/formats.inc"
#undef PYTHIA_RT_FORMAT
  }
  return 0.0f;
}

}  // namespace

struct EmbedArguments {
  Matrix embedding;  // [vocab_size][out.width], or without weights
  const int32_t* tokens;
  const float* positions;  // [max_positions][out.width], or null
  const RowPlace* rows;
  Rows out;
};

// A thread block for kThreads columns of a row.
__global__ void __launch_bounds__(kThreads) embed_kernel(EmbedArguments arguments) {
  const Rows& out = arguments.out;
  const int64_t parts = divide_up(out.width, kThreads);
  const int64_t row = blockIdx.x / parts;
  const int64_t column = blockIdx.x % parts * kThreads + threadIdx.x;
  if (column >= out.width) return;
  const bool has_tokens = arguments.embedding.weight != nullptr;
  float value = 0.0f;
  if (has_tokens) value = weight_at(arguments.embedding, arguments.tokens[row], column);
  if (arguments.positions != nullptr) {
    const int64_t position = arguments.rows[row].position;
    const float other = arguments.positions[position * out.width + column];
    value = has_tokens ? value + other : other;
  }
  out.data[row * out.stride + column] = value;
}

// A thread block a row.
__global__ void __launch_bounds__(kThreads)
    gather_kernel(Rows in, const int64_t* __restrict__ rows, Rows out) {
  const auto* from = reinterpret_cast<const float4*>(in.data + rows[blockIdx.x] * in.stride);
  auto* to = reinterpret_cast<float4*>(out.data + blockIdx.x * out.stride);
  for (int64_t i = threadIdx.x; i < in.stride / 4; i += kThreads) to[i] = from[i];
}

void embed(Stream stream, const Matrix* embedding, const float* positions, const Places& places,
           Rows out) {
  const EmbedArguments arguments{embedding == nullptr ? Matrix{} : *embedding, places.tokens,
                                 positions, places.rows, out};
  const int64_t blocks = out.count * divide_up(out.width, kThreads);
  LAUNCH(embed_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), stream, arguments);
}

void gather(Stream stream, Rows in, const int64_t* rows, Rows out) {
  LAUNCH(gather_kernel, dim3(static_cast<unsigned>(out.count)), dim3(kThreads), stream, in, rows,
         out);
}

}  // namespace pythia_rt::cuda
