// Attention for few rows: a thread block for each block of positions that a row sees, and the heads
// of queries that share a head of keys and values, up to kQueries of them: what it reads serves
// all. Then one for each row and head, which joins the blocks in order.
#include "base/rounding.h"
#include "cuda/kernels/attention.cuh"

namespace pythia_rt::cuda {

namespace {

constexpr int kWarps = kAttentionThreads / kWarp;
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

// Bytes of a stage; what more queries know takes room too.
template <int kQueries>
constexpr int kStageBytes = kQueries > 1 ? 8192 : 16384;

// What stands side by side for each query, one read for four of them.
template <int kQueries>
__device__ __forceinline__ void of_each(const float* from, float (&out)[kQueries]) {
  if constexpr (kQueries == 1) {
    out[0] = *from;
  } else {
#pragma unroll
    for (int q = 0; q < kQueries; q += 4) {
      const float4 four = *reinterpret_cast<const float4*>(from + q);
      out[q] = four.x;
      out[q + 1] = four.y;
      out[q + 2] = four.z;
      out[q + 3] = four.w;
    }
  }
}

// sums + the products of a position's key with each query, n dimensions from `keys` on, in order.
// `queries` are [dimensions][kQueries].
template <typename Cache, int kQueries>
__device__ __forceinline__ void add_products(const typename Cache::Code* keys, const float* queries,
                                             int n, float (&sums)[kQueries]) {
  const auto add = [&](int i, const float (&query)[kQueries]) {
    const float key = Cache::decode(keys[i * 16]);
#pragma unroll
    for (int q = 0; q < kQueries; ++q) sums[q] = fmaf(key, query[q], sums[q]);
  };
  if (n == kKvGroup) {
#pragma unroll
    for (int i = 0; i < kKvGroup; i += 4) {
      float four[4][kQueries];
      if constexpr (kQueries == 1) {
        const float4 q = *reinterpret_cast<const float4*>(queries + i);
        four[0][0] = q.x, four[1][0] = q.y, four[2][0] = q.z, four[3][0] = q.w;
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) of_each(queries + (i + j) * kQueries, four[j]);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) add(i + j, four[j]);
    }
    return;
  }
  for (int i = 0; i < n; ++i) {
    float query[kQueries];
    of_each(queries + i * kQueries, query);
    add(i, query);
  }
}

// The same for a stage of keys. `scales` are the position's key scales, 16 apart.
template <typename Cache, int kQueries>
__device__ __forceinline__ void add_stage(const typename Cache::Code* keys, const float* queries,
                                          const uint16_t* scales, int n,
                                          float (&totals)[kQueries]) {
  for (int i = 0; i < n; i += kKvGroup) {
    const int dims = least(kKvGroup, n - i);
    if constexpr (Cache::kIsScaled) {
      float sums[kQueries] = {};
      add_products<Cache>(keys + i * 16, queries + i * kQueries, dims, sums);
      const float scale = bfloat_to_float(scales[i]);  // i / kKvGroup * 16
#pragma unroll
      for (int q = 0; q < kQueries; ++q) totals[q] = fmaf(sums[q], scale, totals[q]);
    } else {
      add_products<Cache>(keys + i * 16, queries + i * kQueries, dims, totals);
    }
  }
}

// The largest of all threads' values, of each query.
template <int kQueries>
__device__ __forceinline__ void largest_of_block(const float (&values)[kQueries],
                                                 float (&warps)[kWarps][kQueries],
                                                 float (&largest)[kQueries]) {
#pragma unroll
  for (int q = 0; q < kQueries; ++q) {
    const float halves = reduce_max(values[q]);
    const float whole = larger(halves, __shfl_xor_sync(kWholeWarp, halves, kLanes));
    if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp][q] = whole;
  }
  __syncthreads();
#pragma unroll
  for (int q = 0; q < kQueries; ++q) {
    largest[q] = larger(larger(warps[0][q], warps[1][q]), larger(warps[2][q], warps[3][q]));
  }
}

// The sum of a query's weights in 16 lanes by position modulo 16; a whole warp calls. `weights` are
// [kPositions][kQueries], from the query's first on.
template <int kQueries>
__device__ __forceinline__ float sum_of_weights(const float* weights) {
  float sum = 0.0f;
#pragma unroll
  for (int tile = 0; tile < kPositionTiles; ++tile) {
    sum = sum + weights[(tile * 16 + static_cast<int>(threadIdx.x) % kLanes) * kQueries];
  }
  return reduce_add(sum);
}

// mixed + the sum of weight * value over positions [begin, end), for one dimension and each query.
// `values` are those of the stage's first position, which is `first`.
template <typename Cache, int kQueries>
__device__ __forceinline__ void add_values(const typename Cache::Code* values, int padded,
                                           const float* weights, const uint16_t* scales,
                                           int scales_stride, int first, int begin, int end,
                                           float (&mixed)[kQueries]) {
#pragma unroll 8
  for (int position = begin; position < end; ++position) {
    float weight[kQueries];
    of_each(weights + position * kQueries, weight);
    if constexpr (Cache::kIsScaled) {
      const float scale = bfloat_to_float(scales[position / 16 * scales_stride + position % 16]);
#pragma unroll
      for (int q = 0; q < kQueries; ++q) weight[q] = weight[q] * scale;
    }
    const float value = Cache::decode(values[(position - first) * padded]);
#pragma unroll
    for (int q = 0; q < kQueries; ++q) mixed[q] = fmaf(weight[q], value, mixed[q]);
  }
}

}  // namespace

// So many thread blocks' registers fit on a multiprocessor without any that spill.
template <typename Cache, int kQueries>
__global__ void __launch_bounds__(kAttentionThreads, kQueries > 4 ? 3 : 1)
    attend_block(AttentionArguments arguments, Blocks blocks) {
  using Staged = Stage<Cache, kStageBytes<kQueries>>;
  constexpr int kScales = Cache::kIsScaled ? kPositions * kMostHeadDim / kKvGroup : 8;
  SHARED(typename Cache::Code, stages, [2][Staged::kCodes]);
  SHARED(uint16_t, key_scales, [kScales]);
  SHARED(uint16_t, value_scales, [kScales]);
  SHARED(float, queries, [kMostHeadDim * kQueries]);  // [head_dim][kQueries]
  SHARED(float, weights, [kPositions * kQueries]);    // [kPositions][kQueries]
  SHARED(float, warps, [kWarps][kQueries]);

  const auto n_blocks = static_cast<unsigned>(blocks.n);
  const int64_t row = blockIdx.x / n_blocks;
  const int64_t index = blockIdx.x % n_blocks;
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
  const int first_visible = hidden < 0 ? 0 : static_cast<int>(hidden);
  const int n_tiles = (visible + 15) / 16;
  // The heads are `count` from `head` on; where these are too few, the last one is computed again.
  const auto group = static_cast<int>(heads.n_heads / heads.n_kv_heads);
  const auto parts = static_cast<unsigned>((group + kQueries - 1) / kQueries);
  const int64_t kv_head = blockIdx.y / parts;
  const int first_query = static_cast<int>(blockIdx.y % parts) * kQueries;
  const int count = least(kQueries, group - first_query);
  const int64_t head = kv_head * group + first_query;
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
  const float* queries_in = arguments.qkv.data + row * arguments.qkv.stride + head * head_dim;
#pragma unroll
  for (int q = 0; q < kQueries; ++q) {
    const float* query_in = queries_in + least(q, count - 1) * head_dim;
    for (int i = thread; i < head_dim; i += kAttentionThreads) {
      queries[i * kQueries + q] = query_in[i];
    }
  }

  // Where what is known of a query's block goes.
  const auto index_of = [&](int q) { return (row * heads.n_heads + head + q) * blocks.n + index; };
  const int tile = thread / 16;
  const int lane = thread % 16;
  float totals[kQueries] = {};
  float mixed[2][kQueries] = {};  // of dimensions `thread` and `thread` + kAttentionThreads
  for (int stage = 0; stage < n_stages; ++stage) {
    if (stage + 1 < n_stages) copy_stage(stage + 1);
    copy_async_commit();
    copy_async_wait<1>();
    __syncthreads();
    const auto* staged = stages[stage % 2];
    if (stage < key_stages) {
      const int begin = stage * Staged::kDims;
      if (thread < visible) {
        add_stage<Cache>(staged + tile * Staged::kTileStride + lane, queries + begin * kQueries,
                         key_scales + tile * groups * 16 + begin + lane,
                         least(Staged::kDims, head_dim - begin), totals);
      }
      if (stage + 1 == key_stages) {
        float scores[kQueries];
#pragma unroll
        for (int q = 0; q < kQueries; ++q) {
          scores[q] = first_visible <= thread && thread < visible
                          ? score_of(arguments.scoring, totals[q], head + least(q, count - 1),
                                     static_cast<int>(index) * kPositions + thread)
                          : minus_infinity();
        }
        float largest[kQueries];
        largest_of_block(scores, warps, largest);
#pragma unroll
        for (int q = 0; q < kQueries; ++q) {
          weights[thread * kQueries + q] = exp(scores[q] - largest[q]);
        }
        __syncthreads();
#pragma unroll
        for (int q = 0; q < kQueries; ++q) {
          if (thread / kWarp != q % kWarps) continue;
          const float sum = sum_of_weights<kQueries>(weights + q);
          if (thread % kWarp == 0 && q < count) {
            blocks.largest[index_of(q)] = largest[q];
            blocks.sums[index_of(q)] = sum;
          }
        }
      }
    } else {
      const int begin = (stage - key_stages) * value_positions;
      const int end = least(begin + value_positions, visible);
      // A value that is not finite would not vanish with a weight of 0.
      const int from = begin < first_visible ? first_visible : begin;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int dim = thread + i * kAttentionThreads;
        if (dim >= head_dim) break;
        add_values<Cache>(staged + dim, padded, weights, value_scales + dim / kKvGroup * 16,
                          groups * 16, begin, from, end, mixed[i]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int q = 0; q < kQueries; ++q) {
    if (q >= count) break;
    float* out = blocks.mixed + index_of(q) * head_dim;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int dim = thread + i * kAttentionThreads;
      if (dim < head_dim) out[dim] = mixed[i][q];
    }
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

template <typename Cache, int kQueries>
void attend(Stream stream, const AttentionArguments& arguments, const Blocks& blocks) {
  const HeadLayout& heads = arguments.heads;
  const int64_t parts = heads.n_kv_heads * divide_up(heads.group(), kQueries);
  const dim3 grid(static_cast<unsigned>(arguments.qkv.count * blocks.n),
                  static_cast<unsigned>(parts));
  LAUNCH((attend_block<Cache, kQueries>), grid, dim3(kAttentionThreads), stream, arguments, blocks);
}

template <typename Cache>
void attend(Stream stream, const AttentionArguments& arguments, const Blocks& blocks) {
  const int64_t group = arguments.heads.group();
  if (group == 1) {
    attend<Cache, 1>(stream, arguments, blocks);
  } else if (group <= 4) {
    attend<Cache, 4>(stream, arguments, blocks);
  } else {
    attend<Cache, 8>(stream, arguments, blocks);
  }
}

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
  switch (format) {
#define PYTHIA_RT_KV_FORMAT(cache, name, code_type, is_scaled) \
  case KvFormat::name:                                         \
    attend<cache>(stream, arguments, blocks);                  \
    break;
#include "formats/kv_formats.inc"
#undef PYTHIA_RT_KV_FORMAT
  }
  LAUNCH(join_blocks, dim3(static_cast<unsigned>(qkv.count), static_cast<unsigned>(heads.n_heads)),
         dim3(kAttentionThreads), stream, arguments, blocks);
}

}  // namespace pythia_rt::cuda
