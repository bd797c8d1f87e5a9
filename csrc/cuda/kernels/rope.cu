// Rotary position embedding (kernels/rope.inl) and what the cache keeps of a row: a warp for each
// head of queries or of keys and values.
#include "base/rounding.h"
#include "cuda/kernels/kv_cache.cuh"
#include "cuda/kernels/lanes.cuh"
#include "cuda/kernels/launch.h"
#include "cuda/port.cuh"

namespace pythia_rt::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kWarpsPerBlock = kThreads / kWarp;

}  // namespace

struct RotateArguments {
  HeadLayout heads;
  int64_t layer;
  Rows qkv;
  KvFormat format;
  const RowPlace* rows;
  const SequencePlace* sequences;
  const float* cosines;  // [positions][rotary_dim / 2]
  const float* sines;
};

namespace {

// A lane has both values of its pairs, so that nobody reads what another one has changed.
__device__ __forceinline__ void rotate(float* head, int64_t half, const float* cosines,
                                       const float* sines) {
  for (int64_t i = threadIdx.x % kWarp; i < half; i += kWarp) {
    const float first = head[i];
    const float second = head[i + half];
    head[i] = first * cosines[i] - second * sines[i];
    head[i + half] = second * cosines[i] + first * sines[i];
  }
}

// 1, or the scale of the 16 values that half a warp has; the first lane stores it.
template <typename Cache>
__device__ __forceinline__ float scale_group(float value, bool stores, uint16_t* place) {
  if constexpr (Cache::kIsScaled) {
    const uint16_t scale = Cache::scale_for(reduce_max(fabsf(value)));
    if (stores && threadIdx.x % kLanes == 0) *place = scale;
    return bfloat_to_float(scale);
  }
  return 1.0f;
}

// Writes one position of a block: the key as a column of its tile of 16 positions, the value as a
// row, padded with zeros to whole groups.
template <typename Cache>
__device__ __forceinline__ void append(const float* key, const float* value,
                                       const HeadBlock<Cache>& block, int head_dim, int position) {
  using Code = typename Cache::Code;
  const int tile = position / 16;
  const int lane = position % 16;
  const int groups = kv_groups(head_dim);
  const int padded = groups * kKvGroup;
  Code* keys = block.keys + tile * head_dim * 16 + lane;
  Code* values = block.values + position * padded;
#pragma unroll 1
  for (int begin = 0; begin < padded; begin += kWarp) {  // all lanes must reach the shuffles
    const int i = begin + static_cast<int>(threadIdx.x) % kWarp;
    const bool stores = i < padded;
    const bool is_there = i < head_dim;
    const int scale_index = (tile * groups + i / kKvGroup) * 16 + lane;
    const float k = is_there ? key[i] : 0.0f;
    const float v = is_there ? value[i] : 0.0f;
    const float key_scale = scale_group<Cache>(k, stores, block.key_scales + scale_index);
    const float value_scale = scale_group<Cache>(v, stores, block.value_scales + scale_index);
    if (is_there) keys[i * 16] = Cache::encode(k, key_scale);
    if (stores) values[i] = Cache::encode(v, value_scale);
  }
}

}  // namespace

template <typename Cache>
__global__ void __launch_bounds__(kThreads) rotate_and_append_kernel(RotateArguments arguments) {
  const HeadLayout& heads = arguments.heads;
  const int64_t rotated = heads.n_heads + heads.n_kv_heads;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / kWarp;
  const int64_t row = index / rotated;
  const int64_t head = index % rotated;
  if (row >= arguments.qkv.count) return;
  const RowPlace place = arguments.rows[row];
  const SequencePlace& sequence = arguments.sequences[place.sequence];
  if (sequence.format != arguments.format) return;
  const int64_t half = heads.rotary_dim / 2;
  float* data = arguments.qkv.data + row * arguments.qkv.stride + head * heads.head_dim;
  rotate(data, half, arguments.cosines + place.position * half,
         arguments.sines + place.position * half);
  if (head < heads.n_heads) return;
  __syncwarp();
  constexpr auto kPositions = static_cast<int>(kPagePositions);
  const auto head_dim = static_cast<int>(heads.head_dim);
  const HeadPages<Cache> pages(sequence.cache, arguments.layer, head - heads.n_heads, head_dim);
  append<Cache>(data, data + heads.n_kv_heads * heads.head_dim,
                pages.block(place.position / kPositions), head_dim, place.position % kPositions);
}

void rotate_and_append(Stream stream, const HeadLayout& heads, int64_t layer, Rows qkv,
                       KvFormat format, const Places& places) {
  const RotateArguments arguments{
      heads, layer, qkv, format, places.rows, places.sequences, places.cosines, places.sines};
  const int64_t warps = qkv.count * (heads.n_heads + heads.n_kv_heads);
  const dim3 grid(static_cast<unsigned>(divide_up(warps, kWarpsPerBlock)));
  switch (format) {
#define PYTHIA_RT_KV_FORMAT(cache, name, code_type, is_scaled)                          \
  case KvFormat::name:                                                                  \
    LAUNCH((rotate_and_append_kernel<cache>), grid, dim3(kThreads), stream, arguments); \
    break;
#include "formats/kv_formats.inc"
#undef PYTHIA_RT_KV_FORMAT
  }
}

}  // namespace pythia_rt::cuda
