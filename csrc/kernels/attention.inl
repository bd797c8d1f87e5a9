// Causal attention of one head over its cache (Vaswani et al. 2017), scores and softmax in f32.
//
// Up to four queries share one pass over the keys and one over the values. Each query's arithmetic
// depends on its own position alone: a score adds its head_dim products in order, where the cache
// has scales within each group and then the groups; the softmax sums in 16 lanes by position modulo
// 16; the output adds positions in order. So neither the number of queries in a pass nor how the
// prompt was cut can change a bit.
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

// scores[q][position] = scale * key . query for whole tiles of positions, kTiles at a time.
template <typename Cache, int kQueries, int kTiles>
inline void score_tiles(const AttentionArguments& arguments, int64_t row, int64_t tile) {
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
    float* out = arguments.scores + q * arguments.scores_stride + tile * 16;
    for (int t = 0; t < kTiles; ++t) store(out + 16 * t, total[q][t] * broadcast(arguments.scale));
  }
}

// Scores become weights e^(score - largest), masked ones exactly 0; returns their sum.
inline float soften(float* scores, int64_t n) {
  Vec largest = broadcast(-__builtin_inff());
  for (int64_t i = 0; i < n; i += 16) {
    const Vec masked = fill_after(load(scores + i), n - i, -__builtin_inff());
    store(scores + i, masked);
    largest = max(largest, masked);
  }
  const Vec top = broadcast(reduce_max(largest));
  Vec sum = zero();
  for (int64_t i = 0; i < n; i += 16) {
    const Vec weight = exp(load(scores + i) - top);
    store(scores + i, weight);
    sum = sum + weight;
  }
  return reduce_add(sum);
}

// out[q] = sum over positions of weight * value, for kWidth vectors of the head. A value's scale
// goes into the weight, 16 positions at once. Queries of one pass see kQueries - 1 positions more,
// one by one, after those that all of them see.
template <typename Cache, int kQueries, int kWidth>
inline void mix_values(const AttentionArguments& arguments, int64_t row, int64_t column,
                       const float* sums) {
  const int64_t dim = arguments.head_dim;
  const int64_t stride = kv_groups(dim) * 16;
  const int64_t first_group = column / kKvGroup;
  const auto* values = static_cast<const typename Cache::Code*>(arguments.cache.values) + column;
  const uint16_t* scales = arguments.cache.value_scales;
  const int64_t common = arguments.first_position + row + 1;
  const int64_t step = Cache::kIsScaled ? 16 : common;
  Vec mixed[kQueries][kWidth];
  for (auto& vectors : mixed) {
    for (Vec& lanes : vectors) lanes = zero();
  }
  for (int64_t begin = 0; begin < common; begin += step) {
    [[maybe_unused]] float scaled[kQueries][kWidth][16];
    if constexpr (Cache::kIsScaled) {
      for (int w = 0; w < kWidth; ++w) {
        const Vec scale = load_bf16(scales + scale_index(begin / 16, first_group + w, dim));
        for (int q = 0; q < kQueries; ++q) {
          store(scaled[q][w], load(arguments.scores + q * arguments.scores_stride + begin) * scale);
        }
      }
    }
    const int64_t end = begin + step < common ? begin + step : common;
    for (int64_t position = begin; position < end; ++position) {
      for (int w = 0; w < kWidth; ++w) {
        const auto* place = values + position * stride + 16 * w;
        if constexpr (kQueries == 1) __builtin_prefetch(place + kAhead<Cache>);
        const Vec value = Cache::load_codes(place);
        for (int q = 0; q < kQueries; ++q) {
          const float weight = Cache::kIsScaled
                                   ? scaled[q][w][position - begin]
                                   : arguments.scores[q * arguments.scores_stride + position];
          mixed[q][w] = fma(broadcast(weight), value, mixed[q][w]);
        }
      }
    }
  }
  for (int q = 0; q < kQueries; ++q) {
    const float* weights = arguments.scores + q * arguments.scores_stride;
    for (int64_t position = common; position < common + q; ++position) {
      for (int w = 0; w < kWidth; ++w) {
        float weight = weights[position];
        if constexpr (Cache::kIsScaled) {
          const int64_t index = scale_index(position / 16, first_group + w, dim) + position % 16;
          weight = weight * scale_value(scales[index]);
        }
        const Vec value = Cache::load_codes(values + position * stride + 16 * w);
        mixed[q][w] = fma(broadcast(weight), value, mixed[q][w]);
      }
    }
    float* out = arguments.out + (row + q) * arguments.out_stride + column;
    for (int w = 0; w < kWidth; ++w) {
      store_first(out + 16 * w, mixed[q][w] / broadcast(sums[q]), dim - column - 16 * w);
    }
  }
}

template <typename Cache, int kQueries>
inline void attend(const AttentionArguments& arguments, int64_t row) {
  const int64_t longest = arguments.first_position + row + kQueries;
  const int64_t tiles = (longest + 15) / 16;
  constexpr int kTiles = 2;
  int64_t tile = 0;
  for (; tile + kTiles <= tiles; tile += kTiles) {
    score_tiles<Cache, kQueries, kTiles>(arguments, row, tile);
  }
  for (; tile < tiles; ++tile) score_tiles<Cache, kQueries, 1>(arguments, row, tile);
  float sums[kQueries];
  for (int q = 0; q < kQueries; ++q) {
    sums[q] = soften(arguments.scores + q * arguments.scores_stride, longest - kQueries + q + 1);
  }
  // A row of values is read in one piece where there are registers for it.
  constexpr int kWidth = kQueries > 1 ? 2 : kRowTile > 1 ? 8 : 4;
  const int64_t width = kv_groups(arguments.head_dim) * 16;
  int64_t column = 0;
  for (; column + 16 * kWidth <= width; column += 16 * kWidth) {
    mix_values<Cache, kQueries, kWidth>(arguments, row, column, sums);
  }
  if constexpr (kWidth > 4) {
    for (; column + 16 * 4 <= width; column += 16 * 4) {
      mix_values<Cache, kQueries, 4>(arguments, row, column, sums);
    }
  }
  for (; column < width; column += 16) {
    mix_values<Cache, kQueries, 1>(arguments, row, column, sums);
  }
}

template <typename Cache>
inline void attention(const AttentionArguments& arguments) {
  int64_t row = 0;
  for (; row + kQueryTile <= arguments.rows; row += kQueryTile) {
    attend<Cache, kQueryTile>(arguments, row);
  }
  for (; row < arguments.rows; ++row) attend<Cache, 1>(arguments, row);
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
