// Causal attention of one head over its cache (Vaswani et al. 2017), scores and softmax in f32.
//
// The context is cut into blocks of kAttentionBlock positions. Each has a softmax of its own over
// its scores; blocks are joined in order, rescaled to the largest score so far (Milakov and
// Gimelshein 2018). So blocks may be worked on side by side, as a device with many cores does, and
// results are the same to the bit; and a block's scores and weights stay in registers and the
// first-level cache.
//
// Up to four queries share one pass over the keys and one over the values. Each query's arithmetic
// depends on its own position alone: a score adds its head_dim products in order, where the cache
// has scales within each group and then the groups; the softmax sums in 16 lanes by position modulo
// 16; a block's output adds positions in order. So neither the number of queries in a pass nor how
// the prompt was cut can change a bit.
#pragma once

#include "kernels/kv_caches.inl"
#include "kernels/table.h"
#include "simd/math.h"

namespace pythia_rt::PYTHIA_RT_ISA {

// Writes one position: the key as a column of its tile of 16 positions, the value as a row. Nothing
// else is touched, so what stood there before, after a rewind, leaves no trace.
template <typename Cache>
inline void append(const AppendArguments& arguments) {
  using Code = typename Cache::Code;
  const int64_t dim = arguments.head_dim;
  const int64_t tile = arguments.position / 16, lane = arguments.position % 16;
  Code* keys = static_cast<Code*>(arguments.cache.keys) + tile * dim * 16 + lane;
  Code* values =
      static_cast<Code*>(arguments.cache.values) + arguments.position * kv_groups(dim) * 16;
  for (int64_t group = 0; group < kv_groups(dim); ++group) {
    const int64_t i = group * 16;
    const int64_t n = dim - i < 16 ? dim - i : 16;
    Code column[16];
    const uint16_t key_scale = Cache::store_codes(column, load_first(arguments.key + i, n));
    for (int64_t j = 0; j < n; ++j) keys[(i + j) * 16] = column[j];
    const uint16_t value_scale = Cache::store_codes(values + i, load_first(arguments.value + i, n));
    if constexpr (Cache::kIsScaled) {
      const int64_t index = scale_index(tile, group, dim) + lane;
      arguments.cache.key_scales[index] = key_scale;
      arguments.cache.value_scales[index] = value_scale;
    }
  }
}

// A single query waits for memory: how far ahead, in codes, it asks for them (see
// linear_integer.inl).
template <typename Cache>
constexpr int64_t kAhead = 2048 / sizeof(typename Cache::Code);

// A block of positions as some queries see it.
struct PositionBlock {
  int64_t begin;   // its first position
  int64_t common;  // positions that all queries see
  bool is_last;    // then query q sees q positions more
};

template <int kQueries>
struct BlockScores {
  alignas(64) float of[kQueries][kAttentionBlock];
};

// scores[q][position - begin] = scale * key . query for whole tiles of positions, kTiles at a time.
template <typename Cache, int kQueries, int kTiles>
inline void score_tiles(const AttentionArguments& arguments, int64_t row, int64_t begin_position,
                        int64_t tile, BlockScores<kQueries>& scores) {
  const int64_t dim = arguments.head_dim;
  const int64_t step = Cache::kIsScaled ? kKvGroup : dim;
  const auto* keys =
      static_cast<const typename Cache::Code*>(arguments.cache.keys) + tile * dim * 16;
  const float* query = arguments.queries + row * arguments.query_stride;
  Vec total[kQueries][kTiles];
  for (auto& tiles : total) {
    for (Vec& lanes : tiles) lanes = zero();
  }
  for (int64_t begin = 0; begin < dim; begin += step) {
    const int64_t end = begin + step < dim ? begin + step : dim;
    Vec sum[kQueries][kTiles];
    for (auto& tiles : sum) {
      for (Vec& lanes : tiles) lanes = zero();
    }
    for (int64_t i = begin; i < end; ++i) {
      for (int t = 0; t < kTiles; ++t) {
        const auto* place = keys + (t * dim + i) * 16;
        if constexpr (kQueries == 1) __builtin_prefetch(place + kAhead<Cache>);
        const Vec key = Cache::load_codes(place);
        for (int q = 0; q < kQueries; ++q) {
          sum[q][t] = fma(key, broadcast(query[q * arguments.query_stride + i]), sum[q][t]);
        }
      }
    }
    for (int t = 0; t < kTiles; ++t) {
      if constexpr (Cache::kIsScaled) {
        const Vec scales =
            load_bf16(arguments.cache.key_scales + scale_index(tile + t, begin / kKvGroup, dim));
        for (int q = 0; q < kQueries; ++q) total[q][t] = fma(sum[q][t], scales, total[q][t]);
      } else {
        for (int q = 0; q < kQueries; ++q) total[q][t] = sum[q][t];
      }
    }
  }
  for (int q = 0; q < kQueries; ++q) {
    float* out = scores.of[q] + (tile * 16 - begin_position);
    for (int t = 0; t < kTiles; ++t) store(out + 16 * t, total[q][t] * broadcast(arguments.scale));
  }
}

template <typename Cache, int kQueries>
inline void score_block(const AttentionArguments& arguments, int64_t row,
                        const PositionBlock& block, BlockScores<kQueries>& scores) {
  const int64_t end = block.begin + block.common + (block.is_last ? kQueries - 1 : 0);
  const int64_t tiles = (end + 15) / 16;
  constexpr int kTiles = 2;
  int64_t tile = block.begin / 16;
  for (; tile + kTiles <= tiles; tile += kTiles) {
    score_tiles<Cache, kQueries, kTiles>(arguments, row, block.begin, tile, scores);
  }
  for (; tile < tiles; ++tile) {
    score_tiles<Cache, kQueries, 1>(arguments, row, block.begin, tile, scores);
  }
}

// The softmax of a query as far as it has come: the largest score and the sum of weights, relative
// to it, of all blocks so far; and what the last block and those before it are multiplied with.
struct RunningSoftmax {
  float largest = -__builtin_inff();
  float sum = 0;
  float earlier = 0;
  float latest = 0;
};

// A block's n scores become weights e^(score - largest of the block), masked ones exactly 0; joins
// it to those before.
inline void soften(float* scores, int64_t n, RunningSoftmax& softmax) {
  Vec lanes = broadcast(-__builtin_inff());
  for (int64_t i = 0; i < n; i += 16) {
    const Vec masked = fill_after(load(scores + i), n - i, -__builtin_inff());
    store(scores + i, masked);
    lanes = max(lanes, masked);
  }
  const float largest = reduce_max(lanes);
  const Vec top = broadcast(largest);
  Vec sum = zero();
  for (int64_t i = 0; i < n; i += 16) {
    const Vec weight = exp(load(scores + i) - top);
    store(scores + i, weight);
    sum = sum + weight;
  }
  const float both = softmax.largest > largest ? softmax.largest : largest;
  alignas(64) float factors[16] = {softmax.largest - both, largest - both};
  store(factors, exp(load(factors)));
  softmax.largest = both;
  softmax.earlier = factors[0];
  softmax.latest = factors[1];
  const Vec earlier_sum = broadcast(softmax.sum) * broadcast(softmax.earlier);
  store(factors, fma(broadcast(reduce_add(sum)), broadcast(softmax.latest), earlier_sum));
  softmax.sum = factors[0];
}

// Adds a block to the outputs: the sum over its positions of weight * value, for kWidth vectors of
// the head. A value's scale goes into the weight, 16 positions at once. In the last block queries
// of one pass see kQueries - 1 positions more, one by one, after those that all of them see.
template <typename Cache, int kQueries, int kWidth>
inline void mix_values(const AttentionArguments& arguments, int64_t row, int64_t column,
                       const PositionBlock& block, const BlockScores<kQueries>& weights,
                       const RunningSoftmax (&softmax)[kQueries]) {
  const int64_t dim = arguments.head_dim;
  const int64_t stride = kv_groups(dim) * 16;
  const int64_t first_group = column / kKvGroup;
  const auto* values = static_cast<const typename Cache::Code*>(arguments.cache.values) +
                       block.begin * stride + column;
  const uint16_t* scales = arguments.cache.value_scales;
  const int64_t first_tile = block.begin / 16;
  const int64_t step = Cache::kIsScaled ? 16 : block.common;
  Vec mixed[kQueries][kWidth];
  for (auto& vectors : mixed) {
    for (Vec& lanes : vectors) lanes = zero();
  }
  for (int64_t begin = 0; begin < block.common; begin += step) {
    [[maybe_unused]] float scaled[kQueries][kWidth][16];
    if constexpr (Cache::kIsScaled) {
      for (int w = 0; w < kWidth; ++w) {
        const Vec scale =
            load_bf16(scales + scale_index(first_tile + begin / 16, first_group + w, dim));
        for (int q = 0; q < kQueries; ++q) {
          store(scaled[q][w], load(weights.of[q] + begin) * scale);
        }
      }
    }
    const int64_t end = begin + step < block.common ? begin + step : block.common;
    for (int64_t i = begin; i < end; ++i) {
      for (int w = 0; w < kWidth; ++w) {
        const auto* place = values + i * stride + 16 * w;
        if constexpr (kQueries == 1) __builtin_prefetch(place + kAhead<Cache>);
        const Vec value = Cache::load_codes(place);
        for (int q = 0; q < kQueries; ++q) {
          const float weight = Cache::kIsScaled ? scaled[q][w][i - begin] : weights.of[q][i];
          mixed[q][w] = fma(broadcast(weight), value, mixed[q][w]);
        }
      }
    }
  }
  for (int q = 0; q < kQueries; ++q) {
    const int64_t end = block.common + (block.is_last ? q : 0);
    for (int64_t i = block.common; i < end; ++i) {
      for (int w = 0; w < kWidth; ++w) {
        float weight = weights.of[q][i];
        if constexpr (Cache::kIsScaled) {
          const int64_t index = scale_index(first_tile + i / 16, first_group + w, dim) + i % 16;
          weight = weight * scale_value(scales[index]);
        }
        const Vec value = Cache::load_codes(values + i * stride + 16 * w);
        mixed[q][w] = fma(broadcast(weight), value, mixed[q][w]);
      }
    }
    const Vec earlier = broadcast(softmax[q].earlier), latest = broadcast(softmax[q].latest);
    float* out = arguments.out + (row + q) * arguments.out_stride + column;
    for (int w = 0; w < kWidth; ++w) {
      const int64_t n = dim - column - 16 * w;
      const Vec before = block.begin == 0 ? zero() : load_first(out + 16 * w, n);
      Vec total = fma(mixed[q][w], latest, before * earlier);
      if (block.is_last) total = total / broadcast(softmax[q].sum);
      store_first(out + 16 * w, total, n);
    }
  }
}

template <typename Cache, int kQueries>
inline void mix_block(const AttentionArguments& arguments, int64_t row, const PositionBlock& block,
                      const BlockScores<kQueries>& weights,
                      const RunningSoftmax (&softmax)[kQueries]) {
  // A row of values is read in one piece where there are registers for it.
  constexpr int kWidth = kQueries > 1 ? 2 : kRowTile > 1 ? 8 : 4;
  const int64_t width = kv_groups(arguments.head_dim) * 16;
  int64_t column = 0;
  for (; column + 16 * kWidth <= width; column += 16 * kWidth) {
    mix_values<Cache, kQueries, kWidth>(arguments, row, column, block, weights, softmax);
  }
  if constexpr (kWidth > 4) {
    for (; column + 16 * 4 <= width; column += 16 * 4) {
      mix_values<Cache, kQueries, 4>(arguments, row, column, block, weights, softmax);
    }
  }
  for (; column < width; column += 16) {
    mix_values<Cache, kQueries, 1>(arguments, row, column, block, weights, softmax);
  }
}

// Queries whose last positions lie in the same block.
template <typename Cache, int kQueries>
inline void attend(const AttentionArguments& arguments, int64_t row) {
  BlockScores<kQueries> scores;
  RunningSoftmax softmax[kQueries];
  const int64_t seen = arguments.first_position + row + 1;  // by the first query
  for (int64_t begin = 0; begin < seen; begin += kAttentionBlock) {
    const bool is_last = seen - begin <= kAttentionBlock;
    const PositionBlock block{begin, is_last ? seen - begin : kAttentionBlock, is_last};
    score_block<Cache, kQueries>(arguments, row, block, scores);
    for (int q = 0; q < kQueries; ++q) {
      soften(scores.of[q], block.common + (is_last ? q : 0), softmax[q]);
    }
    mix_block<Cache, kQueries>(arguments, row, block, scores, softmax);
  }
}

template <typename Cache>
inline void attention(const AttentionArguments& arguments) {
  int64_t row = 0;
  while (row < arguments.rows) {
    const int64_t in_block = (arguments.first_position + row) % kAttentionBlock;
    if (row + kQueryTile <= arguments.rows && in_block + kQueryTile <= kAttentionBlock) {
      attend<Cache, kQueryTile>(arguments, row);
      row += kQueryTile;
    } else {
      attend<Cache, 1>(arguments, row);
      row += 1;
    }
  }
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
