// Causal attention over the cache of one head of keys and values (Vaswani et al. 2017), scores and
// softmax in f32, for the heads of queries that share it (Ainslie et al. 2023).
//
// The context is cut into blocks of kAttentionBlock positions, counted from the first. Each has a
// softmax of its own: its largest score, its weights e^(score - largest), their sum, and the values
// mixed by them. Blocks are joined in order; whenever a larger score comes up, what was summed
// before is scaled down to it (Milakov and Gimelshein 2018). So a device may work on all blocks of
// a long context side by side, and nothing of a block depends on the others until the join.
//
// Up to four queries, of different heads or positions, share one pass over the keys and one over
// the values. Each query's arithmetic depends on its own head and position alone: a score adds its
// head_dim products in order, where the cache has scales within each group and then the groups, is
// scaled, and gets the bias of the key's position; a block's weights are summed in 16 lanes by
// position modulo 16; its values are added position by position. So neither the number of queries
// in a pass nor how the prompt was cut can change a bit.
//
// Blocks that lie before a query's window are not read; in the one where it begins, the scores of
// what lies before it are minus infinity, and their weights exactly 0.
#pragma once

#include "kernels/in_caller.h"
#include "kernels/kv_caches.inl"
#include "kernels/table.h"
#include "simd/math.h"

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
    const int64_t seen = arguments.first_position + place + 1;
    queries.end[q] = seen;
    queries.first[q] =
        arguments.window == 0 || seen < arguments.window ? 0 : seen - arguments.window;
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

// The largest of a block's first n scores.
inline float largest_score(const float* scores, int64_t n) {
  const float lowest = -__builtin_inff();
  Vec largest = broadcast(lowest);
  for (int64_t i = 0; i < n; i += 16) {
    Vec lanes = load(scores + i);
    if (n - i < 16) lanes = fill_after(lanes, n - i, lowest);
    largest = max(largest, lanes);
  }
  return reduce_max(largest);
}

// A block's first n scores become weights e^(score - largest), the rest of the last 16 exactly 0,
// whatever the largest is; returns their sum.
inline float soften(float* scores, int64_t n, float largest) {
  const Vec top = broadcast(largest);
  Vec sum = zero();
  for (int64_t i = 0; i < n; i += 16) {
    Vec weight = exp(load(scores + i) - top);
    if (n - i < 16) weight = fill_after(weight, n - i, 0.0f);
    store(scores + i, weight);
    sum = sum + weight;
  }
  return reduce_add(sum);
}

// Blocks are softened and mixed in runs of as many as a vector has lanes.
constexpr int kRunBlocks = 16;
constexpr int64_t kRun = kRunBlocks * kAttentionBlock;  // positions

// How a query joins blocks: total = mixed * fresh + total * kept, one rounding for the second
// product and one for the rest.
struct Joining {
  float largest = -__builtin_inff();          // score of the blocks so far
  float sum = 0.0f;                           // of their weights
  float kept[kRunBlocks], fresh[kRunBlocks];  // of the present run
};

// The scores of what lies before the window, in the block where it begins.
inline void mask_before(float* scores, int64_t first) {
  for (int64_t i = block_of(first) * kAttentionBlock; i < first; ++i) scores[i] = -__builtin_inff();
}

// Softens the blocks of a run of which the query sees the first n <= kRun positions, maybe none,
// from the block on where `first` lies.
inline void soften_run(float* scores, int64_t first, int64_t n, Joining& joining) {
  const auto seen = [n](int64_t block) {
    const int64_t rest = n - block * kAttentionBlock;
    return rest < kAttentionBlock ? rest : kAttentionBlock;
  };
  float before[kRunBlocks] = {}, largest[kRunBlocks] = {}, after[kRunBlocks] = {};
  const int64_t begin = first < 0 ? 0 : block_of(first);
  int64_t count = begin;
  for (; count * kAttentionBlock < n; ++count) {
    const float top = largest_score(scores + count * kAttentionBlock, seen(count));
    largest[count] = top;
    before[count] = joining.largest;
    joining.largest = joining.largest > top ? joining.largest : top;
    after[count] = joining.largest;
  }
  store(joining.kept, exp(load(before) - load(after)));
  store(joining.fresh, exp(load(largest) - load(after)));
  for (int64_t block = begin; block < count; ++block) {
    const float sum = soften(scores + block * kAttentionBlock, seen(block), largest[block]);
    joining.sum = __builtin_fmaf(sum, joining.fresh[block], joining.sum * joining.kept[block]);
  }
}

// mixed[q] += weight * value over the positions of the block from `start` on up to query q's last.
// A value's scale goes into the weight, 16 positions at once. After those that all of them see,
// queries see what is left for them one by one. What lies before a window has the weight 0.
template <typename Cache, int kQueries, int kWidth>
PYTHIA_RT_IN_CALLER inline void mix_block(const AttentionArguments& arguments,
                                          const Queries<kQueries>& queries, int64_t column,
                                          int64_t start, Vec (&mixed)[kQueries][kWidth]) {
  const int64_t dim = arguments.head_dim;
  const int64_t stride = kv_groups(dim) * 16;
  const int64_t first_group = column / kKvGroup;
  using Code = typename Cache::Code;
  const PagedHead& cache = arguments.cache;
  const int64_t block = block_of(start);
  const Code* values = part_of<Code>(cache, block, cache.values) + column;
  const uint16_t* scales = part_of<uint16_t>(cache, block, cache.value_scales);
  const float* weights = arguments.scores + start;
  // Positions are counted from the block's first one.
  const int64_t seen = queries.end[0] - start;
  const int64_t common = seen < 0 ? 0 : seen < kAttentionBlock ? seen : kAttentionBlock;
  const int64_t step = Cache::kIsScaled ? 16 : kAttentionBlock;
  const int64_t distance = codes_ahead<Code>(kAttentionBlock * stride);
  const Code* values_end = values + common * stride;
  const Code* next = static_cast<const Code*>(arguments.next_keys);
  if (seen > kAttentionBlock) {
    next = part_of<Code>(cache, block + 1, cache.values) + column;
    if (kQueries == 1 && column == 0)
      ask_for_scales<Cache>(arguments, block + 1, cache.value_scales);
  } else if (next == nullptr) {
    next = part_of<Code>(cache, block_of(queries.first[0]), cache.keys);
  }
  for (int64_t begin = 0; begin < common; begin += step) {
    [[maybe_unused]] float scaled[kQueries][kWidth][16];
    if constexpr (Cache::kIsScaled) {
      for (int w = 0; w < kWidth; ++w) {
        const Vec scale = load_bf16(scales + scale_index(begin / 16, first_group + w, dim));
        for (int q = 0; q < kQueries; ++q) {
          store(scaled[q][w], load(weights + q * arguments.scores_stride + begin) * scale);
        }
      }
    }
    const int64_t end = begin + step < common ? begin + step : common;
    for (int64_t position = begin; position < end; ++position) {
      const Code* place = values + position * stride;
      if constexpr (kQueries == 1) {
        const Code* ahead = ahead_of(place, distance, values_end, next);
        for (int w = 0; w < kWidth; w += 4 / sizeof(Code)) ask_for(ahead + 16 * w);  // by lines
      }
      for (int w = 0; w < kWidth; ++w, place += 16) {
        const Vec value = Cache::load_codes(place);
        for (int q = 0; q < kQueries; ++q) {
          const float weight = Cache::kIsScaled ? scaled[q][w][position - begin]
                                                : weights[q * arguments.scores_stride + position];
          mixed[q][w] = fma(broadcast(weight), value, mixed[q][w]);
        }
      }
    }
  }
  for (int q = 1; q < kQueries; ++q) {
    const int64_t left = queries.end[q] - start;
    const int64_t end = left < kAttentionBlock ? left : kAttentionBlock;
    for (int64_t position = common; position < end; ++position) {
      for (int w = 0; w < kWidth; ++w) {
        float weight = weights[q * arguments.scores_stride + position];
        if constexpr (Cache::kIsScaled) {
          const int64_t index = scale_index(position / 16, first_group + w, dim) + position % 16;
          weight = weight * scale_value(scales[index]);
        }
        const Vec value = Cache::load_codes(values + position * stride + 16 * w);
        mixed[q][w] = fma(broadcast(weight), value, mixed[q][w]);
      }
    }
  }
}

// Mixes the values of a run's blocks and joins them to the totals, which wait in out between runs,
// for kWidth vectors of the head. Not inline: the accumulators need the registers.
template <typename Cache, int kQueries, int kWidth>
void mix_run(const AttentionArguments& arguments, const Queries<kQueries>& queries, int64_t column,
             int64_t run, const Joining* joinings) {
  const int64_t width = arguments.head_dim - column;
  const int64_t first = block_of(queries.first[0]) * kAttentionBlock;
  const int64_t longest = queries.end[kQueries - 1];
  const int64_t end = run + kRun < longest ? run + kRun : longest;
  Vec total[kQueries][kWidth];
  for (int q = 0; q < kQueries; ++q) {
    for (int w = 0; w < kWidth; ++w) {
      const float* place = queries.out[q] + column + 16 * w;
      total[q][w] = run <= first ? zero() : load_first(place, width - 16 * w);
    }
  }
  for (int64_t start = run < first ? first : run; start < end; start += kAttentionBlock) {
    Vec mixed[kQueries][kWidth];
    for (auto& vectors : mixed) {
      for (Vec& lanes : vectors) lanes = zero();
    }
    mix_block<Cache>(arguments, queries, column, start, mixed);
    const int64_t block = (start - run) / kAttentionBlock;
    for (int q = 0; q < kQueries; ++q) {
      // The block begins after this query, or ends before its window.
      if (queries.end[q] <= start || queries.first[q] >= start + kAttentionBlock) continue;
      const Vec kept = broadcast(joinings[q].kept[block]);
      const Vec fresh = broadcast(joinings[q].fresh[block]);
      for (int w = 0; w < kWidth; ++w) {
        total[q][w] = fma(mixed[q][w], fresh, total[q][w] * kept);
      }
    }
  }
  for (int q = 0; q < kQueries; ++q) {
    const Vec sum = broadcast(end == longest ? joinings[q].sum : 1.0f);
    for (int w = 0; w < kWidth; ++w) {
      store_first(queries.out[q] + column + 16 * w, total[q][w] / sum, width - 16 * w);
    }
  }
}

template <typename Cache, int kQueries>
inline void attend(const AttentionArguments& arguments, const Queries<kQueries>& queries) {
  const int64_t first = block_of(queries.first[0]);
  const int64_t longest = queries.end[kQueries - 1];
  const int64_t tiles = (longest + 15) / 16;
  constexpr int kTiles = kQueries > 1 && kRowTile == 1 ? 1 : 2;
  for (int64_t index = first; index * kBlockTiles < tiles; ++index) {
    const auto block = key_block<Cache>(arguments, index, first, tiles);
    if constexpr (kQueries == 1) {
      const bool is_last = tiles <= (index + 1) * kBlockTiles;
      is_last ? ask_for_scales<Cache>(arguments, first, arguments.cache.value_scales)
              : ask_for_scales<Cache>(arguments, index + 1, arguments.cache.key_scales);
    }
    int64_t tile = 0;
    for (; tile + kTiles <= block.tiles; tile += kTiles) {
      score_tiles<Cache, kQueries, kTiles>(arguments, queries, block, tile);
    }
    for (; tile < block.tiles; ++tile) {
      score_tiles<Cache, kQueries, 1>(arguments, queries, block, tile);
    }
  }
  // A row of values is read in one piece where there are registers for it.
  constexpr int kWidth = kQueries == 1 ? (kRowTile > 1 ? 8 : 4) : (kRowTile > 1 ? 4 : 1);
  const int64_t width = kv_groups(arguments.head_dim) * 16;
  Joining joinings[kQueries];
  for (int q = 0; q < kQueries; ++q) {
    mask_before(arguments.scores + q * arguments.scores_stride, queries.first[q]);
  }
  for (int64_t run = queries.first[0] / kRun * kRun; run < longest; run += kRun) {
    for (int q = 0; q < kQueries; ++q) {
      const int64_t rest = queries.end[q] - run;
      float* scores = arguments.scores + q * arguments.scores_stride + run;
      soften_run(scores, queries.first[q] - run, rest < kRun ? rest : kRun, joinings[q]);
    }
    int64_t column = 0;
    for (; column + 16 * kWidth <= width; column += 16 * kWidth) {
      mix_run<Cache, kQueries, kWidth>(arguments, queries, column, run, joinings);
    }
    if constexpr (kWidth > 4) {
      for (; column + 16 * 4 <= width; column += 16 * 4) {
        mix_run<Cache, kQueries, 4>(arguments, queries, column, run, joinings);
      }
    }
    for (; column < width; column += 16) {
      mix_run<Cache, kQueries, 1>(arguments, queries, column, run, joinings);
    }
  }
}

template <typename Cache>
inline void attention(const AttentionArguments& arguments) {
  int64_t row = arguments.row_begin;
  const int64_t end = arguments.row_end;
  for (; row + 1 < end; row += kQueryTile) {
    attend<Cache>(arguments, queries_of<kQueryTile>(arguments, row, end));
  }
  if (row < end) attend<Cache>(arguments, queries_of<1>(arguments, row, end));
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
