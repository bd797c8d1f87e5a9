// The values of a block, mixed by the weights of its positions (kernels/attention.inl).
#pragma once

#include "kernels/attention_scores.inl"

namespace pythia_rt::PYTHIA_RT_ISA {

// Of a block that begins at `start`, the position itself, its end or its beginning, counted from
// there.
inline int64_t in_block(int64_t position, int64_t start) {
  const int64_t index = position - start;
  return index < 0 ? 0 : index < kAttentionBlock ? index : kAttentionBlock;
}

// mixed += weight * value over positions [begin, end) of a block, for one query: those that not all
// queries of its tile see.
template <typename Cache>
[[gnu::noinline]] void mix_alone(const AttentionArguments& arguments, const float* weights,
                                 int64_t block, int64_t begin, int64_t end, float* mixed) {
  const int64_t dim = arguments.head_dim;
  const int64_t groups = kv_groups(dim);
  const PagedHead& cache = arguments.cache;
  const auto* values = part_of<typename Cache::Code>(cache, block, cache.values);
  const uint16_t* scales = part_of<uint16_t>(cache, block, cache.value_scales);
  for (int64_t group = 0; group < groups; ++group) {
    Vec sum = load(mixed + group * 16);
    for (int64_t i = begin; i < end; ++i) {
      float weight = weights[i];
      if constexpr (Cache::kIsScaled) {
        weight = weight * scale_value(scales[scale_index(i / 16, group, dim) + i % 16]);
      }
      sum = fma(broadcast(weight), Cache::load_codes(values + (i * groups + group) * 16), sum);
    }
    store(mixed + group * 16, sum);
  }
}

// mixed[q] += weight * value over positions [begin, end) of a block, in order, for kWidth vectors
// of the head from `column` on. A value's scale goes into the weight, 16 positions at once. Not
// inline: the sums need the registers.
template <typename Cache, int kQueries, int kWidth>
[[gnu::noinline]] void mix_columns(const AttentionArguments& arguments, const float* weights,
                                   int64_t block, const Part<typename Cache::Code>& part,
                                   int64_t column, int64_t begin, int64_t end, float* mixed) {
  using Code = typename Cache::Code;
  const int64_t dim = arguments.head_dim;
  const int64_t stride = kv_groups(dim) * 16;
  [[maybe_unused]] const auto* scales =
      part_of<uint16_t>(arguments.cache, block, arguments.cache.value_scales);
  Vec sum[kQueries][kWidth];
#pragma GCC unroll 8
  for (int q = 0; q < kQueries; ++q) {
#pragma GCC unroll 8
    for (int w = 0; w < kWidth; ++w) sum[q][w] = load(mixed + q * stride + column + 16 * w);
  }
  constexpr int64_t kStep = Cache::kIsScaled ? 16 : kAttentionBlock;
  const Code* place = part.codes + begin * stride + column;
  const Code* ahead = part.ahead_of(begin) + column;
  const Code* ahead_end = part.codes + part.positions * stride + column;
  const Code* next = part.next + column;
  for (int64_t first = begin; first < end; first += kStep) {
    const int64_t last = first + kStep < end ? first + kStep : end;
    [[maybe_unused]] float scaled[kQueries][kWidth][16];
    if constexpr (Cache::kIsScaled) {
      for (int w = 0; w < kWidth; ++w) {
        const Vec scale = load_bf16(scales + scale_index(first / 16, column / kKvGroup + w, dim));
        for (int q = 0; q < kQueries; ++q) {
          store(scaled[q][w], load(weights + q * kAttentionBlock + first) * scale);
        }
      }
    }
    for (int64_t i = first; i < last; ++i, place += stride) {
#pragma GCC unroll 8
      for (int w = 0; w < kWidth; w += 4 / sizeof(Code)) ask_for(ahead + 16 * w);  // by lines
      ahead += stride;
      if (ahead == ahead_end) ahead = next;
#pragma GCC unroll 8
      for (int w = 0; w < kWidth; ++w) {
        const Vec value = Cache::load_codes(place + 16 * w);
#pragma GCC unroll 8
        for (int q = 0; q < kQueries; ++q) {
          const float weight =
              Cache::kIsScaled ? scaled[q][w][i - first] : weights[q * kAttentionBlock + i];
          sum[q][w] = fma(broadcast(weight), value, sum[q][w]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < kQueries; ++q) {
#pragma GCC unroll 8
    for (int w = 0; w < kWidth; ++w) store(mixed + q * stride + column + 16 * w, sum[q][w]);
  }
}

// mixed[q] = the sum of weight * value over what each of kQueries queries from `first` on sees of a
// block: those positions that all of them see together, the others one by one before and after.
template <typename Cache, int kQueries>
inline void mix_block(const AttentionArguments& arguments, const Queries& queries, int first,
                      int64_t block, const Part<typename Cache::Code>& part, const float* weights,
                      float* mixed) {
  const int64_t width = kv_groups(arguments.head_dim) * 16;
  const int64_t start = block * kAttentionBlock;
  for (int64_t i = 0; i < kQueries * width; i += 16) store(mixed + i, zero());
  const int last = first + kQueries - 1;
  const int64_t seen = in_block(queries.end[first], start);
  const int64_t begin = (in_block(queries.first[last], start) + 15) / 16 * 16;
  const int64_t end = seen < begin ? begin : seen;  // they see [begin, end)
  const auto alone = [&](int q, int64_t from, int64_t to) {
    const int64_t low = in_block(queries.first[first + q], start);
    const int64_t high = in_block(queries.end[first + q], start);
    if (from < low) from = low;
    if (to > high) to = high;
    if (from >= to) return;
    mix_alone<Cache>(arguments, weights + q * kAttentionBlock, block, from, to, mixed + q * width);
  };
  for (int q = 0; q < kQueries; ++q) alone(q, 0, begin);
  // A row of values is read in one piece where there are registers for it.
  constexpr bool kHasRoom = kRowTile > 1 && kQueries <= kQueryTile;
  constexpr int kWidth = kQueries == 1 ? (kHasRoom ? 8 : 4) : (kHasRoom ? 4 : 1);
  int64_t column = 0;
  const auto mix = [&](auto vectors) {
    constexpr int kVectors = decltype(vectors)::value;
    for (; column + 16 * kVectors <= width; column += 16 * kVectors) {
      mix_columns<Cache, kQueries, kVectors>(arguments, weights, block, part, column, begin, end,
                                             mixed);
    }
  };
  mix(Number<kWidth>{});
  if constexpr (kWidth > 4) mix(Number<4>{});
  if constexpr (kWidth > 1) mix(Number<1>{});
  for (int q = 0; q < kQueries; ++q) alone(q, end, kAttentionBlock);
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
