// Causal attention over the cache of one head of keys and values (Vaswani et al. 2017), scores and
// softmax in f32, for the heads of queries that share it (Ainslie et al. 2023).
//
// The context is cut into blocks of kAttentionBlock positions, counted from the first. Each has a
// softmax of its own: its largest score, its weights e^(score - largest), their sum, and the values
// mixed by them. Blocks are joined in order; whenever a larger score comes up, what was summed
// before is scaled down to it (Milakov and Gimelshein 2018). So a device may work on all blocks of
// a long context side by side, and nothing of a block depends on the others until the join.
//
// Up to 16 queries, of different heads or positions, share the reading of a block, and four or
// eight of them each load of keys and values. Each query's arithmetic depends on its own head and
// position alone: a score adds its head_dim products in order, where the cache has scales within
// each group and then the groups, is scaled, and gets the bias of the key's position; a block's
// weights are summed in 16 lanes by position modulo 16; its values are added position by position.
// So neither the number of queries together nor how the prompt was cut can change a bit.
//
// Blocks that lie before a query's window are not read; in the one where it begins, the scores of
// what lies before it are minus infinity, and its values are left out: one that is not finite would
// not vanish with a weight of 0.
#pragma once

#include "kernels/attention_mixing.inl"
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

// Scales are too few in a block for the hardware to see them coming: those of its keys and values
// are asked for as a whole.
template <typename Cache>
inline void ask_for_scales(const AttentionArguments& arguments, int64_t block) {
  if constexpr (Cache::kIsScaled) {
    const PagedHead& cache = arguments.cache;
    const int64_t parts[] = {cache.key_scales, cache.value_scales};
    for (const int64_t part : parts) {
      const auto* scales = part_of<char>(cache, block, part);
      const int64_t bytes = kAttentionBlock * kv_groups(arguments.head_dim) * sizeof(uint16_t);
      for (int64_t i = 0; i < bytes; i += 64) ask_for(scales + i);
    }
  }
}

// How queries join a block, one in each lane: total = mixed * fresh + total * kept, one rounding
// for the second product and one for the rest.
struct Joining {
  float largest[kQueriesTogether];                        // score of the blocks so far
  float sum[kQueriesTogether];                            // of their weights
  float kept[kQueriesTogether], fresh[kQueriesTogether];  // of the present block
};
static_assert(kQueriesTogether == 16);  // lanes

// The scores of a block become weights, and with them each query's sum and how it joins the block.
inline void soften_block(const Queries& queries, int count, int64_t block, float* scores,
                         Joining& joining) {
  const int64_t start = block * kAttentionBlock;
  float before[kQueriesTogether] = {}, top[kQueriesTogether] = {}, after[kQueriesTogether] = {};
  for (int q = 0; q < count; ++q) {
    if (!queries.sees(q, block)) continue;
    float* own = scores + q * kAttentionBlock;
    // What lies before the window, in the block where it begins.
    for (int64_t i = start; i < queries.first[q]; ++i) own[i - start] = -__builtin_inff();
    top[q] = largest_score(own, in_block(queries.end[q], start));
    before[q] = joining.largest[q];
    after[q] = before[q] > top[q] ? before[q] : top[q];
    joining.largest[q] = after[q];
  }
  store(joining.kept, exp(load(before) - load(after)));
  store(joining.fresh, exp(load(top) - load(after)));
  for (int q = 0; q < count; ++q) {
    if (!queries.sees(q, block)) continue;
    const float sum = soften(scores + q * kAttentionBlock, in_block(queries.end[q], start), top[q]);
    joining.sum[q] = __builtin_fmaf(sum, joining.fresh[q], joining.sum[q] * joining.kept[q]);
  }
}

// Calls work(first, number) for the tiles of `count` queries, and for a last one alone.
template <typename Work>
inline void each_tile(int count, const Work& work) {
  int first = 0;
  if constexpr (kWideTile > kQueryTile) {
    for (; first + kQueryTile + 1 < count; first += kWideTile) work(first, Number<kWideTile>{});
  }
  for (; first + 1 < count; first += kQueryTile) {
    work(first, Number<kQueryTile>{});
  }
  if (first < count) work(first, Number<1>{});
}

// The queries of rows [row, row_end), at most kQueriesTogether: block by block, so that memory is
// read once for all of them, and while it is read there is something to compute.
template <typename Cache>
inline void attend(const AttentionArguments& arguments, int64_t row, int64_t row_end) {
  using Code = typename Cache::Code;
  const PagedHead& cache = arguments.cache;
  const int64_t dim = arguments.head_dim, width = kv_groups(dim) * 16;
  const int count = static_cast<int>(row_end - row);
  const Queries queries = queries_of(arguments, row, row_end);
  float* scores = arguments.scratch;  // [kQueriesTogether][kAttentionBlock]
  float* totals = scores + kQueriesTogether * kAttentionBlock;  // [kQueriesTogether][width]
  float* mixed = totals + kQueriesTogether * width;             // [kWideTile][width]
  Joining joining;
  store(joining.largest, broadcast(-__builtin_inff()));
  store(joining.sum, zero());
  for (int64_t i = 0; i < count * width; i += 16) store(totals + i, zero());
  const int64_t first_block = block_of(queries.first[0]);
  const int64_t end_block = block_of(queries.end[count - 1] - 1) + 1;
  const int64_t most = most_ahead<Code>(width);
  for (int64_t block = first_block; block < end_block; ++block) {
    const bool is_last = block + 1 == end_block;
    if (!is_last) ask_for_scales<Cache>(arguments, block + 1);
    // Up to the last tile in which a position is seen.
    const int64_t seen = in_block(queries.end[count - 1], block * kAttentionBlock);
    const int64_t positions = (seen + 15) / 16 * 16;
    const auto* next = is_last ? static_cast<const Code*>(arguments.next_keys)
                               : part_of<Code>(cache, block + 1, cache.keys);
    if (next == nullptr) next = part_of<Code>(cache, first_block, cache.keys);
    const auto* value_codes = part_of<Code>(cache, block, cache.values);
    const Part<Code> keys{part_of<Code>(cache, block, cache.keys), positions, dim, value_codes,
                          most};
    const Part<Code> values{value_codes, positions, width, next, most};
    each_tile(count, [&](int first, auto number) {
      constexpr int kQueries = decltype(number)::value;
      score_block<Cache, kQueries>(arguments, queries, first, block, keys,
                                   scores + first * kAttentionBlock);
    });
    soften_block(queries, count, block, scores, joining);
    each_tile(count, [&](int first, auto number) {
      constexpr int kQueries = decltype(number)::value;
      mix_block<Cache, kQueries>(arguments, queries, first, block, values,
                                 scores + first * kAttentionBlock, mixed);
      for (int q = first; q < first + kQueries && q < count; ++q) {
        if (!queries.sees(q, block)) continue;
        const Vec kept = broadcast(joining.kept[q]), fresh = broadcast(joining.fresh[q]);
        const float* own = mixed + (q - first) * width;
        for (int64_t i = 0; i < width; i += 16) {
          float* total = totals + q * width + i;
          store(total, fma(load(own + i), fresh, load(total) * kept));
        }
      }
    });
  }
  for (int q = 0; q < count; ++q) {
    const Vec sum = broadcast(joining.sum[q]);
    for (int64_t i = 0; i < width; i += 16) {
      store_first(queries.out[q] + i, load(totals + q * width + i) / sum, dim - i);
    }
  }
}

template <typename Cache>
inline void attention(const AttentionArguments& arguments) {
  for (int64_t row = arguments.row_begin; row < arguments.row_end; row += kQueriesTogether) {
    const int64_t end = row + kQueriesTogether;
    attend<Cache>(arguments, row, end < arguments.row_end ? end : arguments.row_end);
  }
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
