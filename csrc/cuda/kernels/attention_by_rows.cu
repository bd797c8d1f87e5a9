// Attention for few rows: a thread block for each block of positions that a row and head sees, and
// then one for each row and head, which joins them in order.
#include "base/rounding.h"
#include "cuda/kernels/attention.cuh"

namespace pythia_rt::cuda {

namespace {

constexpr int kWarps = kAttentionThreads / kWarp;
constexpr int kStageBytes = 16384;
static_assert(kAttentionThreads == kPositions, "a thread scores a position");

}  // namespace

// What is known of a block of positions, of each row, head and block.
struct Blocks {
  float* mixed;    // [rows][heads][n][head_dim]: sums over positions of weight * value
  float* largest;  // [rows][heads][n]
  float* sums;     // [rows][heads][n], of the weights
  int64_t n;       // blocks that a row may have
};

namespace {

// sum + the products of a position's key with the query, n dimensions from `keys` on, in order.
template <typename Cache>
__device__ __forceinline__ float add_products(const typename Cache::Code* keys, const float* query,
                                              int n, float sum) {
  if (n == kKvGroup) {
#pragma unroll
    for (int i = 0; i < kKvGroup; i += 4) {
      const float4 q = *reinterpret_cast<const float4*>(query + i);
      sum = fmaf(Cache::decode(keys[i * 16]), q.x, sum);
      sum = fmaf(Cache::decode(keys[i * 16 + 16]), q.y, sum);
      sum = fmaf(Cache::decode(keys[i * 16 + 32]), q.z, sum);
      sum = fmaf(Cache::decode(keys[i * 16 + 48]), q.w, sum);
    }
    return sum;
  }
  for (int i = 0; i < n; ++i) sum = fmaf(Cache::decode(keys[i * 16]), query[i], sum);
  return sum;
}

// The same for a stage of keys. `scales` are the position's key scales, 16 apart.
template <typename Cache>
__device__ __forceinline__ float add_stage(const typename Cache::Code* keys, const float* query,
                                           const uint16_t* scales, int n, float total) {
  for (int i = 0; i < n; i += kKvGroup) {
    const int dims = least(kKvGroup, n - i);
    if constexpr (Cache::kIsScaled) {
      const float sum = add_products<Cache>(keys + i * 16, query + i, dims, 0.0f);
      total = fmaf(sum, bfloat_to_float(scales[i]), total);  // i / kKvGroup * 16
    } else {
      total = add_products<Cache>(keys + i * 16, query + i, dims, total);
    }
  }
  return total;
}

// The largest of all threads' values.
__device__ __forceinline__ float largest_of_block(float value, float (&warps)[kWarps]) {
  const float halves = reduce_max(value);
  const float largest = larger(halves, __shfl_xor_sync(kWholeWarp, halves, kLanes));
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = largest;
  __syncthreads();
  return larger(larger(warps[0], warps[1]), larger(warps[2], warps[3]));
}

// The sum of a block's weights in 16 lanes by position modulo 16; the first warp calls.
__device__ __forceinline__ float sum_of_weights(const float (&weights)[kPositions]) {
  float sum = 0.0f;
#pragma unroll
  for (int tile = 0; tile < kPositionTiles; ++tile) {
    sum = sum + weights[tile * 16 + static_cast<int>(threadIdx.x) % kLanes];
  }
  return reduce_add(sum);
}

// mixed + the sum of weight * value over n positions of a stage, for one dimension.
template <typename Cache>
__device__ __forceinline__ float add_values(const typename Cache::Code* values, int padded,
                                            const float* weights, const uint16_t* scales,
                                            int scales_stride, int begin, int n, float mixed) {
#pragma unroll 8
  for (int i = 0; i < n; ++i) {
    const int position = begin + i;
    float weight = weights[position];
    if constexpr (Cache::kIsScaled) {
      weight = weight * bfloat_to_float(scales[position / 16 * scales_stride + position % 16]);
    }
    mixed = fmaf(weight, Cache::decode(values[i * padded]), mixed);
  }
  return mixed;
}

}  // namespace

template <typename Cache>
__global__ void __launch_bounds__(kAttentionThreads)
    attend_block(AttentionArguments arguments, Blocks blocks) {
  using Staged = Stage<Cache, kStageBytes>;
  constexpr int kScales = Cache::kIsScaled ? kPositions * kMostHeadDim / kKvGroup : 8;
  SHARED(typename Cache::Code, stages, [2][Staged::kCodes]);
  SHARED(uint16_t, key_scales, [kScales]);
  SHARED(uint16_t, value_scales, [kScales]);
  SHARED(float, query, [kMostHeadDim]);
  SHARED(float, weights, [kPositions]);
  SHARED(float, warps, [kWarps]);

  const auto n_blocks = static_cast<unsigned>(blocks.n);
  const int64_t row = blockIdx.x / n_blocks;
  const int64_t index = blockIdx.x % n_blocks;
  const int64_t head = blockIdx.y;
  const RowPlace place = arguments.places.rows[row];
  const SequencePlace& sequence = arguments.places.sequences[place.sequence];
  const int64_t left = place.position + 1 - index * kPositions;
  // What lies before the row's window, counted like `left` from the block's first position.
  const int64_t hidden =
      first_seen(place.position + 1, arguments.scoring.window) - index * kPositions;
  if (left <= 0 || hidden >= kPositions || sequence.format != arguments.format) return;

  const HeadLayout& heads = arguments.heads;
  const auto head_dim = static_cast<int>(heads.head_dim);
  const int groups = kv_groups(head_dim);
  const int padded = groups * kKvGroup;
  const int visible = left < kPositions ? static_cast<int>(left) : kPositions;
  const int n_tiles = (visible + 15) / 16;
  const int64_t kv_head = head / (heads.n_heads / heads.n_kv_heads);
  const HeadBlock<Cache> block =
      HeadPages<Cache>(sequence.cache, arguments.layer, kv_head, head_dim)
          .block(static_cast<int>(index));

  const int value_positions = Staged::positions(padded);
  const int key_stages = (head_dim + Staged::kDims - 1) / Staged::kDims;
  const int n_stages = key_stages + (visible + value_positions - 1) / value_positions;
  const auto copy_stage = [&](int stage) {
    auto* to = stages[stage % 2];
    if (stage < key_stages) {
      Staged::copy_keys(block, head_dim, n_tiles, stage * Staged::kDims, to);
    } else {
      const int begin = (stage - key_stages) * value_positions;
      Staged::copy_values(block, padded, begin, least(begin + value_positions, visible), to);
    }
  };

  if constexpr (Cache::kIsScaled) {
    Staged::copy(key_scales, block.key_scales, n_tiles * groups * 32);
    Staged::copy(value_scales, block.value_scales, n_tiles * groups * 32);
  }
  copy_stage(0);
  copy_async_commit();
  const auto thread = static_cast<int>(threadIdx.x);
  const float* query_in = arguments.qkv.data + row * arguments.qkv.stride + head * head_dim;
  for (int i = thread; i < head_dim; i += kAttentionThreads) query[i] = query_in[i];

  const int64_t block_index = (row * heads.n_heads + head) * blocks.n + index;
  const int tile = thread / 16;
  const int lane = thread % 16;
  float total = 0.0f;
  float mixed[2] = {0.0f, 0.0f};  // of dimensions `thread` and `thread` + kAttentionThreads
  for (int stage = 0; stage < n_stages; ++stage) {
    if (stage + 1 < n_stages) copy_stage(stage + 1);
    copy_async_commit();
    copy_async_wait<1>();
    __syncthreads();
    const auto* staged = stages[stage % 2];
    if (stage < key_stages) {
      const int begin = stage * Staged::kDims;
      if (thread < visible) {
        total = add_stage<Cache>(staged + tile * Staged::kTileStride + lane, query + begin,
                                 key_scales + tile * groups * 16 + begin + lane,
                                 least(Staged::kDims, head_dim - begin), total);
      }
      if (stage + 1 == key_stages) {
        const float score = hidden <= thread && thread < visible
                                ? score_of(arguments.scoring, total, head,
                                           static_cast<int>(index) * kPositions + thread)
                                : minus_infinity();
        const float largest = largest_of_block(score, warps);
        weights[thread] = exp(score - largest);
        __syncthreads();
        if (thread < kWarp) {
          const float sum = sum_of_weights(weights);
          if (thread == 0) {
            blocks.largest[block_index] = largest;
            blocks.sums[block_index] = sum;
          }
        }
      }
    } else {
      const int begin = (stage - key_stages) * value_positions;
      const int n = least(value_positions, visible - begin);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int dim = thread + i * kAttentionThreads;
        if (dim >= head_dim) break;
        mixed[i] =
            add_values<Cache>(staged + dim, padded, weights, value_scales + dim / kKvGroup * 16,
                              groups * 16, begin, n, mixed[i]);
      }
    }
    __syncthreads();
  }
  float* out = blocks.mixed + block_index * head_dim;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int dim = thread + i * kAttentionThreads;
    if (dim < head_dim) out[dim] = mixed[i];
  }
}

__global__ void __launch_bounds__(kAttentionThreads)
    join_blocks(AttentionArguments arguments, Blocks blocks) {
  const int64_t row = blockIdx.x;
  const int64_t head = blockIdx.y;
  const RowPlace place = arguments.places.rows[row];
  if (arguments.places.sequences[place.sequence].format != arguments.format) return;
  const int64_t head_dim = arguments.heads.head_dim;
  const int64_t first = (row * arguments.heads.n_heads + head) * blocks.n;
  const auto begin =
      static_cast<int>(first_seen(place.position + 1, arguments.scoring.window) / kPositions);
  const int n = place.position / kPositions + 1;
  const float* block_largest = blocks.largest + first;
  const float* block_sums = blocks.sums + first;
  for (int64_t dim = threadIdx.x; dim < head_dim; dim += kAttentionThreads) {
    const float* mixed = blocks.mixed + first * head_dim + dim;
    float largest = minus_infinity();
    float sum = 0.0f;
    float total = 0.0f;
#pragma unroll 4
    for (int i = begin; i < n; ++i) {
      const float joined = larger(largest, block_largest[i]);
      const float before = exp(largest - joined);
      const float now = exp(block_largest[i] - joined);
      sum = fmaf(block_sums[i], now, sum * before);
      total = fmaf(mixed[i * head_dim], now, total * before);
      largest = joined;
    }
    arguments.out.data[row * arguments.out.stride + head * head_dim + dim] = total / sum;
  }
}

namespace {

int64_t blocks_of(int64_t positions) { return divide_up(positions, kPositions); }

}  // namespace

int64_t attention_scratch(const HeadLayout& heads, int64_t rows, int64_t most_positions) {
  return rows * heads.n_heads * blocks_of(most_positions) * (heads.head_dim + 2);
}

void attention_by_rows(Stream stream, const HeadLayout& heads, const Scoring& scoring,
                       int64_t layer, Rows qkv, KvFormat format, const Places& places,
                       float* scratch, Rows out) {
  const AttentionArguments arguments{heads, scoring, layer, qkv, format, places, out};
  const int64_t n = blocks_of(places.most_positions);
  const int64_t all = qkv.count * heads.n_heads * n;
  float* largest = scratch + all * heads.head_dim;
  const Blocks blocks{scratch, largest, largest + all, n};
  const dim3 grid(static_cast<unsigned>(qkv.count * n), static_cast<unsigned>(heads.n_heads));
  switch (format) {
#define PYTHIA_RT_KV_FORMAT(cache, name, code_type, is_scaled)                               \
  case KvFormat::name:                                                                       \
    LAUNCH((attend_block<cache>), grid, dim3(kAttentionThreads), stream, arguments, blocks); \
    break;
#include "formats/kv_formats.inc"
#undef PYTHIA_RT_KV_FORMAT
  }
  LAUNCH(join_blocks, dim3(static_cast<unsigned>(qkv.count), static_cast<unsigned>(heads.n_heads)),
         dim3(kAttentionThreads), stream, arguments, blocks);
}

}  // namespace pythia_rt::cuda
