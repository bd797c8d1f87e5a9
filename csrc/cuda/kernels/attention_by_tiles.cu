// Attention for many rows: a thread block for each head of keys and values and up to 16 of the
// queries that share it, of all its heads and a tile's positions, which walks through the positions
// block by block.
//
// A warp has four queries. For scores a lane has four positions of the block, for outputs a few
// dimensions of the head, so what it reads from shared memory serves 16 or more products.
#include "cuda/kernels/attention.cuh"

namespace pythia_rt::cuda {

namespace {

constexpr int kStageBytes = 8192;
constexpr int kQueries = kQueriesPerTile / (kAttentionThreads / kWarp);  // of a warp
constexpr int kLanePositions = kPositions / kWarp;
constexpr int kSliceDims = 2 * kWarp;  // two dimensions a lane
static_assert(kQueries == 4 && kLanePositions == 4, "they are read as float4 and the like");

// Position p's weights are slot (p % 4) * 32 + p / 4: so a warp writes them without conflicts.
struct WarpWeights {
  float4 of_queries[kPositions];
};
__device__ __forceinline__ int slot_of(int position) {
  return position % kLanePositions * kWarp + position / kLanePositions;
}

// What a warp's queries know after some blocks; every lane has it all.
struct Joined {
  float largest[kQueries];
  float sum[kQueries];
  float before[kQueries], now[kQueries];  // factors of what was known and of the block at hand
};

// [query][position of the lane] += key . query over dimensions [0, n) of a stage.
template <typename Cache>
__device__ __forceinline__ void add_products(const typename Cache::Code* keys, const float* queries,
                                             int n, float (&sums)[kQueries][kLanePositions]) {
#pragma unroll 4
  for (int i = 0; i < n; ++i) {
    float key[kLanePositions];
    Cache::decode(keys + i * 16, key);
    const float4 packed = *reinterpret_cast<const float4*>(queries + i * kQueriesPerTile);
    const float query[kQueries] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int q = 0; q < kQueries; ++q) {
#pragma unroll
      for (int p = 0; p < kLanePositions; ++p) sums[q][p] = fmaf(key[p], query[q], sums[q][p]);
    }
  }
}

// The same with scales; `scales` are those of the lane's positions in the stage's first group.
template <typename Cache>
__device__ __forceinline__ void add_stage(const typename Cache::Code* keys, const float* queries,
                                          const uint16_t* scales, int n,
                                          float (&totals)[kQueries][kLanePositions]) {
  if constexpr (Cache::kIsScaled) {
    for (int i = 0; i < n; i += kKvGroup) {
      const uint2 packed = *reinterpret_cast<const uint2*>(scales + i);  // i / kKvGroup * 16
      float sums[kQueries][kLanePositions] = {};
      add_products<Cache>(keys + i * 16, queries + i * kQueriesPerTile, least(kKvGroup, n - i),
                          sums);
      const float scale[kLanePositions] = {bfloat_to_float(static_cast<uint16_t>(packed.x)),
                                           bfloat_to_float(static_cast<uint16_t>(packed.x >> 16)),
                                           bfloat_to_float(static_cast<uint16_t>(packed.y)),
                                           bfloat_to_float(static_cast<uint16_t>(packed.y >> 16))};
#pragma unroll
      for (int q = 0; q < kQueries; ++q) {
#pragma unroll
        for (int p = 0; p < kLanePositions; ++p) {
          totals[q][p] = fmaf(sums[q][p], scale[p], totals[q][p]);
        }
      }
    }
  } else {
    add_products<Cache>(keys, queries, n, totals);
  }
}

__device__ __forceinline__ float largest_of_warp(float value) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value = larger(value, __shfl_xor_sync(kWholeWarp, value, distance));
  }
  return value;
}

// What a warp's queries are and see, in the order of their positions.
struct WarpQueries {
  int head[kQueries];
  int first[kQueries], end[kQueries];  // positions

  __device__ __forceinline__ bool sees(int q, int position) const {
    return first[q] <= position && position < end[q];
  }
  __device__ __forceinline__ bool sees_block(int q, int begin) const {
    return first[q] < begin + kPositions && begin < end[q];
  }
};

// The weights of the block from position `begin` on, from its products, into shared memory, and
// what follows from their sums. A query may see nothing of it.
__device__ __forceinline__ void soften(const float (&totals)[kQueries][kLanePositions],
                                       const Scoring& scoring, const WarpQueries& queries,
                                       int begin, WarpWeights& weights, Joined& joined) {
  const auto lane = static_cast<int>(threadIdx.x) % kWarp;
  float block_largest[kQueries];
  float weight[kQueries][kLanePositions];
#pragma unroll
  for (int q = 0; q < kQueries; ++q) {
    float score[kLanePositions];
    float largest = minus_infinity();
#pragma unroll
    for (int p = 0; p < kLanePositions; ++p) {
      const int position = begin + lane * kLanePositions + p;
      score[p] = queries.sees(q, position)
                     ? score_of(scoring, totals[q][p], queries.head[q], position)
                     : minus_infinity();
      largest = larger(largest, score[p]);
    }
    block_largest[q] = largest_of_warp(largest);
#pragma unroll
    for (int p = 0; p < kLanePositions; ++p) weight[q][p] = exp(score[p] - block_largest[q]);
  }
#pragma unroll
  for (int p = 0; p < kLanePositions; ++p) {
    weights.of_queries[p * kWarp + lane] = {weight[0][p], weight[1][p], weight[2][p], weight[3][p]};
  }
  __syncwarp();
  // Sums in 16 lanes by position modulo 16, of two queries at a time.
  float sums[kQueries];
#pragma unroll
  for (int q = 0; q < kQueries; q += 2) {
    const int half = lane / kLanes;
    float sum = 0.0f;
#pragma unroll
    for (int tile = 0; tile < kPositionTiles; ++tile) {
      const int slot = slot_of(tile * 16 + lane % kLanes);
      sum = sum + reinterpret_cast<const float*>(&weights.of_queries[slot])[q + half];
    }
    sum = reduce_add(sum);
    sums[q] = __shfl_sync(kWholeWarp, sum, 0);
    sums[q + 1] = __shfl_sync(kWholeWarp, sum, kLanes);
  }
#pragma unroll
  for (int q = 0; q < kQueries; ++q) {
    if (!queries.sees_block(q, begin)) continue;
    const float largest = larger(joined.largest[q], block_largest[q]);
    joined.before[q] = exp(joined.largest[q] - largest);
    joined.now[q] = exp(block_largest[q] - largest);
    joined.sum[q] = fmaf(sums[q], joined.now[q], joined.sum[q] * joined.before[q]);
    joined.largest[q] = largest;
  }
}

// A lane's outputs: of dimensions 64 s + 2 lane and the next one.
template <int kSlices>
struct LaneOutputs {
  float of_queries[kQueries][kSlices][2] = {};
};

// Where a lane finds its dimensions in a row of values; lanes that have none read others'.
template <int kSlices>
struct LaneDims {
  int first[kSlices];
};

// mixed += weight * value at one position, of the block from `block` on, for the queries that see
// it: all of them, or, masked, which is asked.
template <typename Cache, int kSlices, bool kMasked>
__device__ __forceinline__ void add_position(const typename Cache::Code* values,
                                             const LaneDims<kSlices>& dims,
                                             const WarpWeights& weights, const uint16_t* scales,
                                             int position, const WarpQueries& queries, int block,
                                             LaneOutputs<kSlices>& mixed) {
  const float4 packed = weights.of_queries[slot_of(position)];
  const float weight[kQueries] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int s = 0; s < kSlices; ++s) {
    float value[2];
    Cache::decode(values + dims.first[s], value);
    [[maybe_unused]] float scale = 1.0f;
    if constexpr (Cache::kIsScaled) {
      scale = bfloat_to_float(scales[dims.first[s] / kKvGroup * 16]);
    }
#pragma unroll
    for (int q = 0; q < kQueries; ++q) {
      if (kMasked && !queries.sees(q, block + position)) continue;
      const float factor = Cache::kIsScaled ? weight[q] * scale : weight[q];
      float (&out)[2] = mixed.of_queries[q][s];
      out[0] = fmaf(factor, value[0], out[0]);
      out[1] = fmaf(factor, value[1], out[1]);
    }
  }
}

// The same for positions [begin, end) of a stage of values. `scales` are the block's.
template <typename Cache, int kSlices>
__device__ __forceinline__ void add_values(const typename Cache::Code* values, int padded,
                                           const LaneDims<kSlices>& dims,
                                           const WarpWeights& weights, const uint16_t* scales,
                                           int begin, int end, const WarpQueries& queries,
                                           int block, LaneOutputs<kSlices>& mixed) {
  const auto scales_at = [&](int position) {
    return scales + position / 16 * padded + position % 16;  // [tile][groups][16]
  };
  int position = begin;
  const auto add_masked = [&](int until) {
#pragma unroll 1
    for (; position < until; ++position) {
      add_position<Cache, kSlices, true>(values + (position - begin) * padded, dims, weights,
                                         scales_at(position), position, queries, block, mixed);
    }
  };
  add_masked(least(end, queries.first[kQueries - 1] - block));
#pragma unroll 4
  for (; position < least(end, queries.end[0] - block); ++position) {
    add_position<Cache, kSlices, false>(values + (position - begin) * padded, dims, weights,
                                        scales_at(position), position, queries, block, mixed);
  }
  add_masked(end);
}

}  // namespace

// kSlices: 64 dimensions each, of the head. So many thread blocks' registers fit on a
// multiprocessor without any that spill.
template <typename Cache, int kSlices>
__global__ void __launch_bounds__(kAttentionThreads, kSlices > 2 ? 2 : 3)
    attend_tile(AttentionArguments arguments) {
  using Staged = Stage<Cache, kStageBytes>;
  constexpr int kMostDims = kSlices * kSliceDims;
  constexpr int kScales = Cache::kIsScaled ? kPositions * kMostDims / kKvGroup : 8;
  SHARED(typename Cache::Code, stages, [2][Staged::kCodes]);
  SHARED(uint16_t, value_scales, [kScales]);
  SHARED(float, queries, [kMostDims * kQueriesPerTile]);  // [head_dim][kQueriesPerTile]
  SHARED(WarpWeights, all_weights, [kAttentionThreads / kWarp]);

  // The last tiles see most, and come first. Row r of a tile is head r % group at its position
  // r / group; each of its `group` thread blocks has 16 rows, the last ones maybe fewer.
  const HeadLayout& heads = arguments.heads;
  const auto group = static_cast<int>(heads.n_heads / heads.n_kv_heads);
  const auto number = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  const QueryTile tile = arguments.places.tiles[number / group];
  const SequencePlace& sequence = arguments.places.sequences[tile.sequence];
  const int first_row = number % group * kQueriesPerTile;
  const int count = least(kQueriesPerTile, tile.count * group - first_row);
  if (count <= 0 || sequence.format != arguments.format) return;
  const int64_t kv_head = blockIdx.y;
  const auto position_of = [&](int row) { return (first_row + row) / group; };  // in the tile
  const auto head_of = [&](int row) { return kv_head * group + (first_row + row) % group; };
  const auto head_dim = static_cast<int>(heads.head_dim);
  const int groups = kv_groups(head_dim);
  const int padded = groups * kKvGroup;
  const HeadPages<Cache> cache(sequence.cache, arguments.layer, kv_head, head_dim);

  const int value_positions = Staged::positions(padded);
  const int key_stages = (head_dim + Staged::kDims - 1) / Staged::kDims;
  const int longest = tile.first_position + position_of(count - 1) + 1;
  const auto first_block = static_cast<int>(
      first_seen(tile.first_position + position_of(0) + 1, arguments.scoring.window) / kPositions);
  const int n_blocks = (longest + kPositions - 1) / kPositions;

  // Stages follow one another across the blocks: this one is copied next.
  int next_index = first_block, next_stage = 0, parity = 0;
  const auto copy_next = [&] {
    if (next_index < n_blocks) {
      const HeadBlock<Cache> block = cache.block(next_index);
      const int n = least(kPositions, longest - next_index * kPositions);
      const int n_tiles = (n + 15) / 16;
      auto* to = stages[parity];
      if (next_stage < key_stages) {
        Staged::copy_keys(block, head_dim, n_tiles, next_stage * Staged::kDims, to);
      } else {
        const int begin = (next_stage - key_stages) * value_positions;
        Staged::copy_values(block, padded, begin, least(begin + value_positions, n), to);
        if (Cache::kIsScaled && begin == 0) {
          Staged::copy(value_scales, block.value_scales, n_tiles * groups * 32);
        }
      }
      if (++next_stage == key_stages + (n + value_positions - 1) / value_positions) {
        next_stage = 0;
        ++next_index;
      }
    }
    copy_async_commit();
    parity ^= 1;
  };
  // What was copied before the last call is there when this returns, and where.
  const auto next_is_there = [&] {
    copy_next();
    copy_async_wait<1>();
    __syncthreads();
    return stages[parity];
  };

  copy_next();
  const auto thread = static_cast<int>(threadIdx.x);
  for (int q = 0; q < kQueriesPerTile; ++q) {
    const float* in = arguments.qkv.data +
                      (tile.first_row + position_of(q)) * arguments.qkv.stride +
                      head_of(q) * head_dim;
    for (int i = thread; i < head_dim; i += kAttentionThreads) {
      queries[i * kQueriesPerTile + q] = q < count ? in[i] : 0.0f;
    }
  }

  const int lane = thread % kWarp;
  const int first_query = thread / kWarp * kQueries;
  const bool is_needed = first_query < count;  // by somebody; the same for the whole warp
  WarpWeights& weights = all_weights[thread / kWarp];
  WarpQueries warp_queries;
  Joined joined;
#pragma unroll
  for (int q = 0; q < kQueries; ++q) {
    // Where there are too few, the last one sees for the others.
    const int row = least(first_query + q, count - 1);
    warp_queries.head[q] = static_cast<int>(head_of(row));
    warp_queries.end[q] = tile.first_position + position_of(row) + 1;
    warp_queries.first[q] =
        static_cast<int>(first_seen(warp_queries.end[q], arguments.scoring.window));
    joined.largest[q] = minus_infinity();
    joined.sum[q] = 0.0f;
  }
  LaneDims<kSlices> dims;
#pragma unroll
  for (int s = 0; s < kSlices; ++s) {
    dims.first[s] = least(s * kSliceDims + 2 * lane, padded - 2);
  }
  LaneOutputs<kSlices> totals;

  for (int index = first_block; index < n_blocks; ++index) {
    const int block_begin = index * kPositions;
    const int n = least(kPositions, longest - block_begin);
    const HeadBlock<Cache> block = cache.block(index);
    float products[kQueries][kLanePositions] = {};
    for (int begin = 0; begin < head_dim; begin += Staged::kDims) {
      const auto* staged = next_is_there();
      const int position_tile = lane / 4;
      if (is_needed && position_tile * 16 < n) {
        const int column = lane % 4 * kLanePositions;
        add_stage<Cache>(staged + position_tile * Staged::kTileStride + column,
                         queries + begin * kQueriesPerTile + first_query,
                         block.key_scales + position_tile * groups * 16 + begin + column,
                         least(Staged::kDims, head_dim - begin), products);
      }
      __syncthreads();
    }
    if (is_needed) {
      soften(products, arguments.scoring, warp_queries, block_begin, weights, joined);
    }
    LaneOutputs<kSlices> mixed;
    for (int begin = 0; begin < n; begin += value_positions) {
      const auto* staged = next_is_there();
      if (is_needed) {
        add_values<Cache, kSlices>(staged, padded, dims, weights, value_scales, begin,
                                   least(begin + value_positions, n), warp_queries, block_begin,
                                   mixed);
      }
      __syncthreads();
    }
#pragma unroll
    for (int q = 0; q < kQueries; ++q) {
      if (!warp_queries.sees_block(q, block_begin)) continue;
#pragma unroll
      for (int s = 0; s < kSlices; ++s) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& total = totals.of_queries[q][s][i];
          total = fmaf(mixed.of_queries[q][s][i], joined.now[q], total * joined.before[q]);
        }
      }
    }
  }

#pragma unroll
  for (int q = 0; q < kQueries; ++q) {
    const int row = first_query + q;
    if (row >= count) break;
    float* out = arguments.out.data + (tile.first_row + position_of(row)) * arguments.out.stride +
                 head_of(row) * head_dim;
#pragma unroll
    for (int s = 0; s < kSlices; ++s) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int dim = s * kSliceDims + 2 * lane + i;
        if (dim < head_dim) out[dim] = totals.of_queries[q][s][i] / joined.sum[q];
      }
    }
  }
}

namespace {

template <typename Cache>
void attend(Stream stream, const AttentionArguments& arguments) {
  const HeadLayout& heads = arguments.heads;
  const dim3 grid(static_cast<unsigned>(arguments.places.n_tiles * heads.group()),
                  static_cast<unsigned>(heads.n_kv_heads));
  const dim3 block(kAttentionThreads);
  if (heads.head_dim <= kSliceDims) {
    LAUNCH((attend_tile<Cache, 1>), grid, block, stream, arguments);
  } else if (heads.head_dim <= 2 * kSliceDims) {
    LAUNCH((attend_tile<Cache, 2>), grid, block, stream, arguments);
  } else {
    LAUNCH((attend_tile<Cache, 4>), grid, block, stream, arguments);
  }
}

}  // namespace

void attention_by_tiles(Stream stream, const HeadLayout& heads, const Scoring& scoring,
                        int64_t layer, Rows qkv, KvFormat format, const Places& places, Rows out) {
  const AttentionArguments arguments{heads, scoring, layer, qkv, format, places, out};
  switch (format) {
#define PYTHIA_RT_KV_FORMAT(cache, name, code_type, is_scaled) \
  case KvFormat::name:                                         \
    attend<cache>(stream, arguments);                          \
    break;
#include "formats/kv_formats.inc"
#undef PYTHIA_RT_KV_FORMAT
  }
}

}  // namespace pythia_rt::cuda
