// Matrix product of one row, or of four and more, for an ISA on which a tile takes two of sixteen
// registers (simd/avx2.h): half a tile, 8 output columns, times 8 rows of activations.
//
// What registers must hold is the integers of a group: 8 sums, half a tile, an activation and a
// constant. The float sums wait in memory, where they are fetched once a group. Integers are exact
// and floats are added as in linear_integer.inl: the same bits.
#pragma once

#include "kernels/linear_integer.inl"

namespace pythia_rt::PYTHIA_RT_ISA {

// How the half of a group of one block is multiplied.
template <int kBits>
struct NarrowHalf {
  using Scales = SquareScaleCodes;
  // Tiles whose products are added in 16 bits: codes reach 2^bits - 1, the levels of q4 127.
  static constexpr int kTiles = kBits == 5 ? 4 : kBits == 6 ? 2 : 1;
  // Takes back the offset of the weights: 64 for q4, else half of what the codes count to.
  static HalfInt finish(HalfInt dots, const int32_t* code_sum) {
    constexpr int kShift = kBits == 4 ? 6 : kBits - 1;
    static_assert(PackedGroup<kBits>::kOffset == 1 << kShift);
    return half_subtract<kShift>(dots, code_sum);
  }

  static constexpr int64_t kBytes = kUnpackedGroup;

  template <int kRows>
  static void add(HalfInt (&dots)[kRows], const uint8_t* tiles, const int8_t* codes, int64_t stride,
                  Table, const HalfConstants& constants, int64_t) {
    for (int i = 0; i < kTilesPerGroup; i += kTiles) {
      HalfTile weights[kTiles];
      for (int t = 0; t < kTiles; ++t) weights[t] = load_half_tile(tiles + 64 * (i + t));
      for (int r = 0; r < kRows; ++r) {
        dots[r] = half_narrow_dot(dots[r], weights, codes + r * stride + 4 * i, constants);
        half_pin(dots[r]);
      }
    }
  }
  static HalfVec load_scales(const uint8_t* p, int half) {
    return half_load_squares(reinterpret_cast<const int8_t*>(p) + 8 * half);
  }
};

struct WideHalf {
  using Scales = HalfScales;
  static HalfInt finish(HalfInt dots, const int32_t*) { return dots; }

  static constexpr int64_t kBytes = kUnpackedGroup;

  template <int kRows>
  static void add(HalfInt (&dots)[kRows], const uint8_t* tiles, const int8_t* codes, int64_t stride,
                  Table, const HalfConstants& constants, int64_t ahead) {
    for (int i = 0; i < kTilesPerGroup; ++i) {
      if (ahead != 0) __builtin_prefetch(tiles + 64 * i + ahead, 0, 2);
      const HalfTile weights = half_signed(load_half_tile(tiles + 64 * i));
      const HalfTile magnitudes = half_magnitudes(weights);
      for (int r = 0; r < kRows; ++r) {
        dots[r] =
            half_wide_dot(dots[r], weights, magnitudes, codes + r * stride + 4 * i, constants);
        half_pin(dots[r]);
      }
    }
  }
  static HalfVec load_scales(const uint8_t* p, int half) {
    return half_load_f16(reinterpret_cast<const uint16_t*>(p) + 8 * half);
  }
};

// The same for few rows: the tiles are unpacked on the way.
template <int kBits>
struct StoredHalf : NarrowHalf<kBits> {
  using Group = PackedGroup<kBits>;
  static constexpr int64_t kBytes = Group::kBytes;

  template <int kRows>
  static void add(HalfInt (&dots)[kRows], const uint8_t* pieces, const int8_t* codes,
                  int64_t stride, Table table, const HalfConstants& constants, int64_t ahead) {
    constexpr int kPieces = kBits == 5 ? 2 : 1;  // of two tiles each
    for (int64_t i = 0; i < kTilesPerGroup / 2; i += 2 * kPieces) {
      for (int part = 0; part < 2; ++part) {
        // Of whole tiles the compiler leaves out the half that nobody looks at.
        Tile bits = Group::load_high(pieces, i / kPieces + part, ahead, load_as_low_half);
        HalfTile tiles[2 * kPieces];
        for (int p = 0; p < kPieces; ++p) {
          const uint8_t* place = pieces + 64 * (i + part * kPieces + p);
          if (ahead != 0) __builtin_prefetch(place + ahead, 0, 2);
          Tile even, odd;
          Group::unpack(load_as_low_half(place), bits, table, even, odd);
          tiles[2 * p] = even.low;
          tiles[2 * p + 1] = odd.low;
        }
        for (int r = 0; r < kRows; ++r) {
          add_tiles(dots[r], tiles, codes + r * stride + 8 * (i + part * kPieces), constants);
          half_pin(dots[r]);
        }
      }
    }
  }
  template <int kCount>
  static void add_tiles(HalfInt& sum, const HalfTile (&tiles)[kCount], const int8_t* a,
                        const HalfConstants& constants) {
    if constexpr (NarrowHalf<kBits>::kTiles == 1) {
      for (int t = 0; t < kCount; ++t) {
        const HalfTile one[1] = {tiles[t]};
        sum = half_narrow_dot(sum, one, a + 4 * t, constants);
      }
    } else {
      sum = half_narrow_dot(sum, tiles, a, constants);
    }
  }
};

// sums[r][8 * half + lane] of kRows rows over all groups. Not inline: the integers need the
// registers. Reads the codes of all kRows rows, whether they count or not.
template <typename Half, int kRows>
[[gnu::noinline]] void add_half(const QuantisedRows& in, const uint8_t* tiles,
                                const uint8_t* weight_scales, int64_t groups, int64_t row, int half,
                                Table table, int64_t ahead, float (*sums)[16]) {
  const int64_t stride = in.stride;
  const int8_t* codes = in.codes + row * stride;
  const int32_t* code_sums = in.sums + row * groups;
  const float* scales = in.scales + row * groups;
  const HalfConstants constants = half_constants();
  for (int r = 0; r < kRows; ++r) half_store(sums[r] + 8 * half, half_zero());
  tiles += 32 * half;
  for (int64_t group = 0; group < groups; ++group) {
    HalfInt dots[kRows];
    for (int r = 0; r < kRows; ++r) dots[r] = half_int_zero();
    Half::add(dots, tiles + group * Half::kBytes, codes + group * kColumnGroup, stride, table,
              constants, ahead);
    const HalfVec weight_scale =
        Half::load_scales(weight_scales + group * kRowBlock * Half::Scales::kBytes, half);
    for (int r = 0; r < kRows; ++r) {
      float* sum = sums[r] + 8 * half;
      const HalfInt total = Half::finish(dots[r], code_sums + r * groups + group);
      half_store(sum, half_fma(total, weight_scale, scales[r * groups + group], half_load(sum)));
    }
  }
}

// The sums of a single row and a group of one block, whose two halves are read at once. Where every
// product is added to its sum at once, two sums take turns: an addition waits for the one before.
struct RowSums {
  HalfInt low[2], high[2];
};

template <int kBits>
struct NarrowRow : NarrowHalf<kBits> {
  using Group = PackedGroup<kBits>;
  static constexpr int64_t kBytes = Group::kBytes;

  static void add(RowSums& sums, const uint8_t* group, const int8_t* codes, Table table,
                  const HalfConstants& constants, int64_t ahead) {
    constexpr int kPieces = kBits == 5 ? 2 : 1;  // of two tiles each
    for (int64_t i = 0; i < kTilesPerGroup / 2; i += 2 * kPieces) {
      for (int part = 0; part < 2; ++part) {
        const int64_t first = i + part * kPieces;
        Tile bits = Group::load_high(group, i / kPieces + part, ahead);
        HalfTile low[2 * kPieces], high[2 * kPieces];
        for (int p = 0; p < kPieces; ++p) {
          const uint8_t* place = group + 64 * (first + p);
          __builtin_prefetch(place + ahead, 0, 2);
          Tile even, odd;
          Group::unpack(load_tile(place), bits, table, even, odd);
          low[2 * p] = even.low;
          high[2 * p] = even.high;
          low[2 * p + 1] = odd.low;
          high[2 * p + 1] = odd.high;
        }
        add_tiles(sums, low, high, codes + 8 * first, constants);
      }
      half_pin(sums.low[0]);
      half_pin(sums.high[0]);
      if constexpr (NarrowHalf<kBits>::kTiles == 1) {
        half_pin(sums.low[1]);
        half_pin(sums.high[1]);
      }
    }
  }

  template <int kCount>
  static void add_tiles(RowSums& sums, const HalfTile (&low)[kCount],
                        const HalfTile (&high)[kCount], const int8_t* codes,
                        const HalfConstants& constants) {
    if constexpr (NarrowHalf<kBits>::kTiles == 1) {
      for (int t = 0; t < kCount; ++t) {
        const HalfTile one_low[1] = {low[t]}, one_high[1] = {high[t]};
        HalfInt& low_sum = sums.low[t % 2];
        HalfInt& high_sum = sums.high[t % 2];
        low_sum = half_narrow_dot(low_sum, one_low, codes + 4 * t, constants);
        high_sum = half_narrow_dot(high_sum, one_high, codes + 4 * t, constants);
      }
    } else {
      sums.low[0] = half_narrow_dot(sums.low[0], low, codes, constants);
      sums.high[0] = half_narrow_dot(sums.high[0], high, codes, constants);
    }
  }
};

struct WideRow : WideHalf {
  static constexpr int64_t kBytes = WideGroup::kBytes;

  static void add(RowSums& sums, const uint8_t* group, const int8_t* codes, Table,
                  const HalfConstants& constants, int64_t ahead) {
    for (int64_t i = 0; i < kTilesPerGroup; i += 2) {
      for (int t = 0; t < 2; ++t) {
        const uint8_t* place = group + 64 * (i + t);
        __builtin_prefetch(place + ahead, 0, 2);
        add_half_tile(sums.low[t], place, codes + 4 * (i + t), constants);
        add_half_tile(sums.high[t], place + 32, codes + 4 * (i + t), constants);
      }
    }
  }
  static void add_half_tile(HalfInt& sum, const uint8_t* place, const int8_t* codes,
                            const HalfConstants& constants) {
    const HalfTile weights = half_signed(load_half_tile(place));
    sum = half_wide_dot(sum, weights, half_magnitudes(weights), codes, constants);
  }
};

// One block times a single row. Not inline: its sums and constants just fit the registers.
template <typename Row>
[[gnu::noinline]] void multiply_row(const LinearArguments& arguments, int64_t groups,
                                    int64_t block) {
  const QuantisedRows& in = arguments.quantised;
  const int64_t row = arguments.row_begin;
  const int8_t* codes = in.codes + row * in.stride;
  const int32_t* code_sums = in.sums + row * groups;
  const float* scales = in.scales + row * groups;
  const uint8_t* weights = block_weights(arguments, block, groups * Row::kBytes);
  const uint8_t* weight_scales = static_cast<const uint8_t*>(arguments.matrix->scales) +
                                 block * groups * kRowBlock * Row::Scales::kBytes;
  const Table table = table_of(arguments);
  const HalfConstants constants = half_constants();
  HalfVec low = half_zero(), high = half_zero();
  for (int64_t group = 0; group < groups; ++group) {
    RowSums sums = {{half_int_zero(), half_int_zero()}, {half_int_zero(), half_int_zero()}};
    Row::add(sums, weights + group * Row::kBytes, codes + group * kColumnGroup, table, constants,
             kPrefetchBytes);
    const uint8_t* scale = weight_scales + group * kRowBlock * Row::Scales::kBytes;
    const int32_t* code_sum = code_sums + group;
    low = half_fma(Row::finish(half_add(sums.low[0], sums.low[1]), code_sum),
                   Row::load_scales(scale, 0), scales[group], low);
    high = half_fma(Row::finish(half_add(sums.high[0], sums.high[1]), code_sum),
                    Row::load_scales(scale, 1), scales[group], high);
  }
  finish(arguments, block, row, Row::Scales::finish(*arguments.matrix, block, join(low, high)));
}

template <typename Row>
inline void linear_row(const LinearArguments& arguments) {
  const int64_t groups = count_groups(arguments);
  for (int64_t block = arguments.block_begin; block < arguments.block_end; ++block) {
    multiply_row<Row>(arguments, groups, block);
  }
}

// kRows rows of one block, of which the first n_rows count.
template <typename Half, int kRows>
inline void multiply_half_rows(const LinearArguments& arguments, const uint8_t* tiles,
                               int64_t block, int64_t row, int64_t n_rows, int64_t ahead) {
  const Table table = table_of(arguments);
  const int64_t groups = count_groups(arguments);
  const uint8_t* weight_scales = static_cast<const uint8_t*>(arguments.matrix->scales) +
                                 block * groups * kRowBlock * Half::Scales::kBytes;
  alignas(64) float sums[kRows][16];
  const QuantisedRows& in = arguments.quantised;
  add_half<Half, kRows>(in, tiles, weight_scales, groups, row, 0, table, ahead, sums);
  add_half<Half, kRows>(in, tiles, weight_scales, groups, row, 1, table, 0, sums);
  for (int r = 0; r < kRows && r < n_rows; ++r) {
    finish(arguments, block, row + r,
           Half::Scales::finish(*arguments.matrix, block, load(sums[r])));
  }
}

// One block times all rows. The first of few rows ask for weights ahead, since they wait for them.
template <typename Half>
inline void multiply_halves(const LinearArguments& arguments, const uint8_t* tiles, int64_t block,
                            int64_t ahead) {
  int64_t row = arguments.row_begin;
  for (int64_t rest = arguments.row_end - row; rest > 0; ahead = 0) {
    if (rest > 6) {  // 5 and 6 rows are 4 and 2, not 8
      multiply_half_rows<Half, 8>(arguments, tiles, block, row, rest, ahead);
      row += 8;
      rest -= 8;
    } else if (rest > 2) {
      multiply_half_rows<Half, 4>(arguments, tiles, block, row, rest, ahead);
      row += 4;
      rest -= 4;
    } else {
      multiply_half_rows<Half, 2>(arguments, tiles, block, row, rest, ahead);
      row += 2;
      rest -= 2;
    }
  }
}

// Blocks as they are stored.
template <typename Half>
inline void linear_halves(const LinearArguments& arguments) {
  const int64_t groups = count_groups(arguments);
  const int64_t ahead = is_many_rows(arguments) ? 0 : kPrefetchBytes;
  for (int64_t block = arguments.block_begin; block < arguments.block_end; ++block) {
    multiply_halves<Half>(arguments, block_weights(arguments, block, groups * Half::kBytes), block,
                          ahead);
  }
}

template <int kBits>
inline void linear_packed_halves(const LinearArguments& arguments) {
  using Group = PackedGroup<kBits>;
  const int64_t groups = count_groups(arguments);
  const Table table = table_of(arguments);
  for (int64_t block = arguments.block_begin; block < arguments.block_end; ++block) {
    unpack_groups<Group>(block_weights(arguments, block, groups * Group::kBytes), groups, table,
                         arguments.panel, [](Tile tile) { return tile; });
    multiply_halves<NarrowHalf<kBits>>(arguments, arguments.panel, block, 0);
  }
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
