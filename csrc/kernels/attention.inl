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
// what lies before it are minus infinity, and its values are left out: one that is not finite would
// not vanish with a weight of 0.
#pragma once

#include "kernels/attention_scores.inl"
#include "kernels/in_caller.h"
#include "simd/math.h"

namespace pythia_rt::PYTHIA_RT_ISA {

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

// Of the block from `start` on, the position itself, its end or its beginning, counted from there.
inline int64_t in_block(int64_t position, int64_t start) {
  const int64_t index = position - start;
  return index < 0 ? 0 : index < kAttentionBlock ? index : kAttentionBlock;
}

// The sums of weight * value over what query q sees of the block from `start` on, up to before its
// position `end`. Not inline: it is rare, and the caller needs the registers.
template <typename Cache, int kWidth, int kQueries>
[[gnu::noinline]] void mix_alone(const AttentionArguments& arguments,
                                 const Queries<kQueries>& queries, int q, int64_t column,
                                 int64_t start, int64_t end, float* sums) {
  const int64_t dim = arguments.head_dim;
  const int64_t stride = kv_groups(dim) * 16;
  const int64_t block = block_of(start);
  const PagedHead& cache = arguments.cache;
  const auto* values = part_of<typename Cache::Code>(cache, block, cache.values) + column;
  const uint16_t* scales = part_of<uint16_t>(cache, block, cache.value_scales);
  const float* weights = arguments.scores + q * arguments.scores_stride + start;
  const int64_t seen = in_block(queries.end[q], start);
  for (int w = 0; w < kWidth; ++w) {
    Vec sum = zero();
    for (int64_t i = in_block(queries.first[q], start); i < end && i < seen; ++i) {
      float weight = weights[i];
      if constexpr (Cache::kIsScaled) {
        const int64_t index = scale_index(i / 16, column / kKvGroup + w, dim) + i % 16;
        weight = weight * scale_value(scales[index]);
      }
      sum = fma(broadcast(weight), Cache::load_codes(values + i * stride + 16 * w), sum);
    }
    store(sums + 16 * w, sum);
  }
}

// mixed[q] += weight * value over what query q sees of the block from `start` on, in order: one by
// one before and after those positions that all of them see. There a value's scale goes into the
// weight, 16 positions at once.
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
  const int64_t all_end = in_block(queries.end[0], start);
  const int64_t first = (in_block(queries.first[kQueries - 1], start) + 15) / 16 * 16;
  const int64_t common = all_end < first ? first : all_end;  // they see [first, common)
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
  if (first > 0) {
#pragma GCC unroll 4
    for (int q = 0; q < kQueries; ++q) {
      float sums[16 * kWidth];
      mix_alone<Cache, kWidth>(arguments, queries, q, column, start, first, sums);
#pragma GCC unroll 4
      for (int w = 0; w < kWidth; ++w) mixed[q][w] = load(sums + 16 * w);
    }
  }
  for (int64_t begin = first; begin < common; begin += step) {
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
    const int64_t end = in_block(queries.end[q], start);
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

// Not inline: its loops are watched under its name (bench/machine_code.py).
template <typename Cache, int kQueries>
[[gnu::noinline]] void attend(const AttentionArguments& arguments,
                              const Queries<kQueries>& queries) {
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
