// The scores of attention (kernels/attention.inl): queries that share a pass, and their products
// with a block's keys.
#pragma once

#include "base/window.h"
#include "kernels/kv_caches.inl"
#include "kernels/table.h"

namespace pythia_rt::PYTHIA_RT_ISA {

constexpr int64_t kBlockTiles = kAttentionBlock / 16;

// Where a part of the head begins in the page of a block of positions.
template <typename T>
inline const T* part_of(const PagedHead& cache, int64_t block, int64_t part) {
  return reinterpret_cast<const T*>(cache.pages[block] + part);
}

// A single query waits for memory: it asks for what comes 8 KiB later, or a whole block where that
// is less, into the second-level cache (see linear_integer.inl). After a block's keys come those of
// the next block, after the last keys the values, and after these the next head's keys: a short
// context is over before what it has asked for has come.
template <typename Code>
inline int64_t codes_ahead(int64_t block_codes) {
  constexpr int64_t kMost = 8192 / sizeof(Code);
  return block_codes < kMost ? block_codes : kMost;
}
// The place `distance` after this one, in a block that ends at `end`, or in the next one.
template <typename Code>
inline const Code* ahead_of(const Code* place, int64_t distance, const Code* end,
                            const Code* next) {
  const Code* ahead = place + distance;
  return ahead < end ? ahead : next + (ahead - end);
}
inline void ask_for(const void* place) { __builtin_prefetch(place, 0, 2); }

// Scales are too few in a block for the hardware to see them coming: those of the next block are
// asked for as a whole, and after the keys' those of the values.
template <typename Cache>
inline void ask_for_scales(const AttentionArguments& arguments, int64_t block, int64_t part) {
  if constexpr (Cache::kIsScaled) {
    const auto* scales = part_of<char>(arguments.cache, block, part);
    const int64_t bytes = kBlockTiles * kv_groups(arguments.head_dim) * 16 * sizeof(uint16_t);
    for (int64_t i = 0; i < bytes; i += 64) ask_for(scales + i);
  }
}

// Queries that share a pass, in the order of their positions.
template <int kQueries>
struct Queries {
  const float* query[kQueries];
  const float* bias[kQueries];  // by position, or null
  float* out[kQueries];
  int64_t first[kQueries], end[kQueries];  // of the positions that it sees
};

// Those of rows `row` and on, up to before `end`; where these are too few, the last one again and
// again: it is computed and written more than once, with the same bits.
template <int kQueries>
inline Queries<kQueries> queries_of(const AttentionArguments& arguments, int64_t row, int64_t end) {
  Queries<kQueries> queries;
  for (int q = 0; q < kQueries; ++q) {
    const int64_t index = row + q < end ? row + q : end - 1;
    const int64_t place = index / arguments.group, head = index % arguments.group;
    const int64_t column = head * arguments.head_dim;
    queries.query[q] = arguments.queries + place * arguments.query_stride + column;
    queries.bias[q] =
        arguments.bias == nullptr ? nullptr : arguments.bias + head * arguments.bias_positions;
    queries.out[q] = arguments.out + place * arguments.out_stride + column;
    queries.end[q] = arguments.first_position + place + 1;
    queries.first[q] = first_seen(queries.end[q], arguments.window);
  }
  return queries;
}

inline int64_t block_of(int64_t position) { return position / kAttentionBlock; }

// The keys of a block of positions.
template <typename Code>
struct KeyBlock {
  int64_t index;
  const Code* keys;        // [tiles][head_dim][16]
  const uint16_t* scales;  // [tiles][groups][16]
  int64_t tiles;
  const Code* next;  // what a single query reads after them
  int64_t distance;  // how far ahead it asks
};

// Of a pass over the blocks from `first` on, up to `tiles` tiles of 16 positions.
template <typename Cache>
inline KeyBlock<typename Cache::Code> key_block(const AttentionArguments& arguments, int64_t index,
                                                int64_t first, int64_t tiles) {
  using Code = typename Cache::Code;
  const PagedHead& cache = arguments.cache;
  const int64_t rest = tiles - index * kBlockTiles;
  const bool is_last = rest <= kBlockTiles;
  return {index,
          part_of<Code>(cache, index, cache.keys),
          part_of<uint16_t>(cache, index, cache.key_scales),
          is_last ? rest : kBlockTiles,
          is_last ? part_of<Code>(cache, first, cache.values)
                  : part_of<Code>(cache, index + 1, cache.keys),
          codes_ahead<Code>(kAttentionBlock * arguments.head_dim)};
}

// The bias of 16 positions; what lies beyond the last one that has one is seen by nobody.
inline Vec bias_at(const AttentionArguments& arguments, const float* bias, int64_t position) {
  const int64_t left = arguments.bias_positions - position;
  return left < 16 ? load_first(bias + position, left) : load(bias + position);
}

// scores[q][position] = scale * key . query + bias for whole tiles of positions, kTiles at a time,
// from tile `tile` of the block on.
template <typename Cache, int kQueries, int kTiles>
inline void score_tiles(const AttentionArguments& arguments, const Queries<kQueries>& queries,
                        const KeyBlock<typename Cache::Code>& block, int64_t tile) {
  const int64_t dim = arguments.head_dim;
  const int64_t step = Cache::kIsScaled ? kKvGroup : dim;
  using Code = typename Cache::Code;
  const Code* keys = block.keys + tile * dim * 16;
  [[maybe_unused]] const Code* ahead[kTiles];
  if constexpr (kQueries == 1) {
    const Code* end = block.keys + block.tiles * dim * 16;
    for (int t = 0; t < kTiles; ++t) {
      ahead[t] = ahead_of(keys + t * dim * 16, block.distance, end, block.next);
    }
  }
  // Registers hold the sums only where every index into them is a constant.
  Vec total[kQueries][kTiles];
#pragma GCC unroll 4
  for (auto& tiles : total) {
#pragma GCC unroll 4
    for (Vec& lanes : tiles) lanes = zero();
  }
  for (int64_t begin = 0; begin < dim; begin += step) {
    const int64_t end = begin + step < dim ? begin + step : dim;
    Vec sum[kQueries][kTiles];
#pragma GCC unroll 4
    for (auto& tiles : sum) {
#pragma GCC unroll 4
      for (Vec& lanes : tiles) lanes = zero();
    }
    for (int64_t i = begin; i < end; ++i) {
#pragma GCC unroll 4
      for (int t = 0; t < kTiles; ++t) {
        const auto* place = keys + (t * dim + i) * 16;
        if constexpr (kQueries == 1) ask_for(ahead[t] + i * 16);
        const Vec key = Cache::load_codes(place);
#pragma GCC unroll 4
        for (int q = 0; q < kQueries; ++q) {
          sum[q][t] = fma(key, broadcast(queries.query[q][i]), sum[q][t]);
        }
      }
    }
#pragma GCC unroll 4
    for (int t = 0; t < kTiles; ++t) {
      if constexpr (Cache::kIsScaled) {
        const Vec scales = load_bf16(block.scales + scale_index(tile + t, begin / kKvGroup, dim));
#pragma GCC unroll 4
        for (int q = 0; q < kQueries; ++q) total[q][t] = fma(sum[q][t], scales, total[q][t]);
      } else {
#pragma GCC unroll 4
        for (int q = 0; q < kQueries; ++q) total[q][t] = sum[q][t];
      }
    }
  }
#pragma GCC unroll 4
  for (int q = 0; q < kQueries; ++q) {
    const int64_t position = block.index * kAttentionBlock + tile * 16;
    float* out = arguments.scores + q * arguments.scores_stride + position;
    const float* bias = queries.bias[q];
#pragma GCC unroll 4
    for (int t = 0; t < kTiles; ++t) {
      Vec score = total[q][t] * broadcast(arguments.scale);
      if (bias != nullptr) score = score + bias_at(arguments, bias, position + 16 * t);
      store(out + 16 * t, score);
    }
  }
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
