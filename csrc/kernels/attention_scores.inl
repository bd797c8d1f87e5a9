// The scores of attention (kernels/attention.inl): the queries of a call, what they read of the
// cache, and their products with a block's keys.
#pragma once

#include "base/window.h"
#include "kernels/in_caller.h"
#include "kernels/kv_caches.inl"
#include "kernels/table.h"

namespace pythia_rt::PYTHIA_RT_ISA {

// Queries that share each load of keys and values: a tile of 4, where registers hold whole vectors
// one of 8.
constexpr int kQueryTile = 4;
constexpr int kWideTile = kRowTile > 1 ? 8 : kQueryTile;
static_assert(kQueriesTogether % kWideTile == 0);

template <int kNumber>
struct Number {
  static constexpr int value = kNumber;
};

inline int64_t block_of(int64_t position) { return position / kAttentionBlock; }

// Where a part of the head begins in the page of a block of positions.
template <typename T>
inline const T* part_of(const PagedHead& cache, int64_t block, int64_t part) {
  return reinterpret_cast<const T*>(cache.pages[block] + part);
}

// The keys or the values of a block, and what is read after them. Whoever reads them asks for what
// comes 8 KiB later, or a whole block where that is less, into the second-level cache (see
// linear_integer.inl): after a block's keys its values, after these the next block's keys, and
// after the last ones the next head's, since a short context is over before what it has asked for
// has come.
template <typename Code>
struct Part {
  const Code* codes;
  int64_t positions;  // whole tiles of 16
  int64_t width;      // codes that a position takes; keys have those of 16 positions side by side
  const Code* next;
  int64_t distance;  // how much later, in positions: whole tiles

  Part(const Code* codes, int64_t positions, int64_t width, const Code* next, int64_t most)
      : codes(codes),
        positions(positions),
        width(width),
        next(next),
        distance(most < positions ? most : positions) {}

  // What comes so much later than a position; of keys, than a tile's first one.
  const Code* ahead_of(int64_t position) const {
    const int64_t later = position + distance - positions;
    return later < 0 ? codes + (position + distance) * width : next + later * width;
  }
};

// The most of a distance, where a position takes `width` codes.
template <typename Code>
inline int64_t most_ahead(int64_t width) {
  const int64_t tiles = static_cast<int64_t>(8192 / sizeof(Code)) / (16 * width);
  return tiles < 1 ? 16 : 16 * tiles;
}

inline void ask_for(const void* place) { __builtin_prefetch(place, 0, 2); }

// Up to kQueriesTogether queries, in the order of their positions; after the last one it stands
// again, up to the end of its tile.
struct Queries {
  const float* query[kQueriesTogether];
  const float* bias[kQueriesTogether];  // by position, or null
  float* out[kQueriesTogether];
  int64_t first[kQueriesTogether], end[kQueriesTogether];  // of the positions that it sees

  bool sees(int query, int64_t block) const {
    return first[query] < (block + 1) * kAttentionBlock && block * kAttentionBlock < end[query];
  }
};

// Those of rows [row, end).
inline Queries queries_of(const AttentionArguments& arguments, int64_t row, int64_t end) {
  Queries queries;
  const int64_t count = end - row == 1 ? 1 : (end - row + kQueryTile - 1) / kQueryTile * kQueryTile;
  for (int64_t q = 0; q < count; ++q) {
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

// The bias of 16 positions; what lies beyond the last one that has one is seen by nobody.
inline Vec bias_at(const AttentionArguments& arguments, const float* bias, int64_t position) {
  const int64_t left = arguments.bias_positions - position;
  return left < 16 ? load_first(bias + position, left) : load(bias + position);
}

// sum[q][t] += key . query over the columns [begin, end) of kTiles tiles of keys, asking for what
// lies as far behind `ahead`: with each column, since many lines at once would stand in the way of
// loads, and a line more than once, since a busy memory forgets some of what it was asked for.
template <typename Cache, int kQueries, int kTiles>
PYTHIA_RT_IN_CALLER inline void add_products(const typename Cache::Code* const* keys,
                                             const typename Cache::Code* const* ahead,
                                             const float* const* query, int64_t begin, int64_t end,
                                             Vec (&sum)[kQueries][kTiles]) {
  for (int64_t i = begin; i < end; ++i) {
#pragma GCC unroll 8
    for (int t = 0; t < kTiles; ++t) {
      ask_for(ahead[t] + i * 16);
      const Vec key = Cache::load_codes(keys[t] + i * 16);
#pragma GCC unroll 8
      for (int q = 0; q < kQueries; ++q) sum[q][t] = fma(key, broadcast(query[q][i]), sum[q][t]);
    }
  }
}

// scores[q][position] = scale * key . query + bias for whole tiles of positions, kTiles at a time,
// from tile `tile` of the block on. Not inline: the sums need the registers.
template <typename Cache, int kQueries, int kTiles>
[[gnu::noinline]] void score_tiles(const AttentionArguments& arguments, const Queries& queries,
                                   int first, int64_t block, const Part<typename Cache::Code>& part,
                                   int64_t tile, float* scores) {
  const int64_t dim = arguments.head_dim;
  using Code = typename Cache::Code;
  const Code* keys[kTiles];
  const Code* ahead[kTiles];
  const float* query[kQueries];
  // Registers hold the sums only where every index into them is a constant.
  Vec total[kQueries][kTiles];
#pragma GCC unroll 8
  for (int t = 0; t < kTiles; ++t) {
    keys[t] = part.codes + (tile + t) * dim * 16;
    ahead[t] = part.ahead_of((tile + t) * 16);
  }
#pragma GCC unroll 8
  for (int q = 0; q < kQueries; ++q) {
    query[q] = queries.query[first + q];
#pragma GCC unroll 8
    for (int t = 0; t < kTiles; ++t) total[q][t] = zero();
  }
  if constexpr (Cache::kIsScaled) {
    const auto* scales = part_of<uint16_t>(arguments.cache, block, arguments.cache.key_scales);
    for (int64_t begin = 0; begin < dim; begin += kKvGroup) {
      const int64_t end = begin + kKvGroup < dim ? begin + kKvGroup : dim;
      Vec sum[kQueries][kTiles];
#pragma GCC unroll 8
      for (auto& lanes_of_tiles : sum) {
#pragma GCC unroll 8
        for (Vec& lanes : lanes_of_tiles) lanes = zero();
      }
      add_products<Cache>(keys, ahead, query, begin, end, sum);
#pragma GCC unroll 8
      for (int t = 0; t < kTiles; ++t) {
        const Vec scale = load_bf16(scales + scale_index(tile + t, begin / kKvGroup, dim));
#pragma GCC unroll 8
        for (int q = 0; q < kQueries; ++q) total[q][t] = fma(sum[q][t], scale, total[q][t]);
      }
    }
  } else {
    add_products<Cache>(keys, ahead, query, 0, dim, total);
  }
#pragma GCC unroll 8
  for (int q = 0; q < kQueries; ++q) {
    const float* bias = queries.bias[first + q];
#pragma GCC unroll 8
    for (int t = 0; t < kTiles; ++t) {
      const int64_t position = (tile + t) * 16;
      Vec score = total[q][t] * broadcast(arguments.scale);
      if (bias != nullptr) {
        score = score + bias_at(arguments, bias, block * kAttentionBlock + position);
      }
      store(scores + q * kAttentionBlock + position, score);
    }
  }
}

// Those of kQueries queries from `first` on with all of a block's keys.
template <typename Cache, int kQueries>
inline void score_block(const AttentionArguments& arguments, const Queries& queries, int first,
                        int64_t block, const Part<typename Cache::Code>& part, float* scores) {
  // With a single tile of keys, products of 8 queries take them from memory while multiplying.
  constexpr int kTiles = kQueries > kQueryTile || (kQueries > 1 && kRowTile == 1) ? 1 : 2;
  const int64_t count = part.positions / 16;
  int64_t tile = 0;
  for (; tile + kTiles <= count; tile += kTiles) {
    score_tiles<Cache, kQueries, kTiles>(arguments, queries, first, block, part, tile, scores);
  }
  for (; tile < count; ++tile) {
    score_tiles<Cache, kQueries, 1>(arguments, queries, first, block, part, tile, scores);
  }
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
