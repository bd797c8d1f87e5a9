// Matrix product for an ISA on which a tile takes two of sixteen registers (simd/ymm.h): one row of
// activations, or one or two halves of a tile, 8 output columns each, times several rows.
//
// What registers must hold is the integers of a group: the sums, a part of a tile, an activation
// and constants. The float sums wait in memory, where they are fetched once a group. Integers are
// exact and floats are added as in linear_integer.inl: the same bits.
#pragma once

#include "kernels/linear_integer.inl"

namespace pythia_rt::PYTHIA_RT_ISA {

// How the halves of a group of one block are multiplied.
template <int kBits>
struct NarrowHalf {
  using Scales = SquareScaleCodes;
  // Codes reach 2^bits - 1, the levels of q4 127.
  static constexpr int kTiles = half_tiles(kBits == 4 ? 127 : (1 << kBits) - 1);
  // Takes back the offset of the weights: 64 for q4, else half of what the codes count to.
  static HalfInt finish(HalfInt dots, const int32_t* code_sum) {
    constexpr int kShift = kBits == 4 ? 6 : kBits - 1;
    static_assert(PackedGroup<kBits>::kOffset == 1 << kShift);
    return half_subtract<kShift>(dots, code_sum);
  }

  static constexpr int64_t kBytes = kUnpackedGroup;

  template <int kRows, int kWidth>
  PYTHIA_RT_IN_CALLER static void add(HalfInt (&dots)[kRows][kWidth], const uint8_t* tiles,
                                      const int8_t* codes, int64_t stride, Table,
                                      const HalfConstants& constants, int64_t) {
    for (int i = 0; i < kTilesPerGroup; i += kTiles) {
      HalfTile weights[kWidth][kTiles];
      for (int t = 0; t < kTiles; ++t) {
        for (int h = 0; h < kWidth; ++h) {
          weights[h][t] = load_half_tile(tiles + 64 * (i + t) + 32 * h);
        }
      }
      for (int r = 0; r < kRows; ++r) {
        for (int h = 0; h < kWidth; ++h) {
          dots[r][h] =
              half_narrow_dot(dots[r][h], weights[h], codes + r * stride + 4 * i, constants);
          half_pin(dots[r][h]);
        }
      }
    }
  }
  static HalfVec load_scales(const uint8_t* p, int half) {
    return half_load_squares(reinterpret_cast<const int8_t*>(p) + 8 * half);
  }
};

struct WideHalf {
  using Scales = HalfScales;
  static constexpr int kTiles = 1;
  static HalfInt finish(HalfInt dots, const int32_t* code_sum) {
    return half_wide_finish(dots, code_sum);
  }

  static constexpr int64_t kBytes = kUnpackedGroup;

  template <int kRows, int kWidth>
  PYTHIA_RT_IN_CALLER static void add(HalfInt (&dots)[kRows][kWidth], const uint8_t* tiles,
                                      const int8_t* codes, int64_t stride, Table,
                                      const HalfConstants& constants, int64_t ahead) {
    for (int i = 0; i < kTilesPerGroup; ++i) {
      if (ahead != 0) __builtin_prefetch(tiles + 64 * i + ahead, 0, 2);
      HalfWide weights[kWidth];
      for (int h = 0; h < kWidth; ++h) {
        weights[h] = half_wide(load_half_tile(tiles + 64 * i + 32 * h));
      }
      for (int r = 0; r < kRows; ++r) {
        for (int h = 0; h < kWidth; ++h) {
          dots[r][h] = half_wide_dot(dots[r][h], weights[h], codes + r * stride + 4 * i, constants);
          half_pin(dots[r][h]);
        }
      }
    }
  }
  static HalfVec load_scales(const uint8_t* p, int half) {
    return half_load_f16(reinterpret_cast<const uint16_t*>(p) + 8 * half);
  }
};

// Pieces of two tiles each with high bits of their own.
template <int kBits>
constexpr int kPiecesAtOnce = kBits == 5 ? 2 : 1;

// Calls multiply(j, tiles) for the kTiles tiles j, j + 1, ... of the pieces from number i on, twice
// kPiecesAtOnce: kWidth halves of each, unpacked just before. `ahead` may be 0: to ask for what is
// read now costs less than a branch.
template <int kBits, int kWidth, int kTiles, typename Multiply>
[[gnu::always_inline]] inline void unpack_pieces(const uint8_t* pieces, int64_t i, Table table,
                                                 int64_t ahead, const Multiply& multiply) {
  using Group = PackedGroup<kBits>;
  constexpr int kPieces = kPiecesAtOnce<kBits>;
  // Of whole tiles the compiler leaves out the half that nobody looks at.
  constexpr auto kLoad = kWidth == 1 ? load_as_low_half : load_tile;
  for (int part = 0; part < 2; ++part) {
    Tile bits = Group::load_high(pieces, i / kPieces + part, ahead, kLoad);
    [[maybe_unused]] HalfTile tiles[kWidth][2 * kPieces];
    for (int p = 0; p < kPieces; ++p) {
      const int64_t place = i + part * kPieces + p;
      __builtin_prefetch(pieces + 64 * place + ahead, 0, 2);
      const Tile piece = kLoad(pieces + 64 * place);
      const Tile first = Group::unpack_first(piece, bits, table);
      if constexpr (kTiles == 1) {
        HalfTile one[kWidth][1];
        for (int h = 0; h < kWidth; ++h) one[h][0] = half_of(first, h);
        multiply(2 * place, one);
        const Tile second = Group::unpack_second(piece, bits, table);
        for (int h = 0; h < kWidth; ++h) one[h][0] = half_of(second, h);
        multiply(2 * place + 1, one);
      } else {
        const Tile second = Group::unpack_second(piece, bits, table);
        for (int h = 0; h < kWidth; ++h) {
          tiles[h][2 * p] = half_of(first, h);
          tiles[h][2 * p + 1] = half_of(second, h);
        }
      }
    }
    if constexpr (kTiles > 1) {
      static_assert(kTiles == 2 * kPieces);
      multiply(2 * (i + part * kPieces), tiles);
    }
  }
}

// The same for a group. All of it is inline at once, or the sums would live in memory: the compiler
// looks for what can be in registers before it unrolls. Unrolled, no pointer is in memory either;
// but one row or two wait for memory, and read it up to a tenth slower then.
template <int kBits, int kWidth, int kTiles, bool kUnrolled, typename Multiply>
[[gnu::always_inline]] inline void unpack_halves(const uint8_t* pieces, Table table, int64_t ahead,
                                                 const Multiply& multiply) {
  constexpr int kStep = 2 * kPiecesAtOnce<kBits>;
  if constexpr (kUnrolled) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < kTilesPerGroup / 2; i += kStep) {
      unpack_pieces<kBits, kWidth, kTiles>(pieces, i, table, ahead, multiply);
    }
  } else {
    for (int64_t i = 0; i < kTilesPerGroup / 2; i += kStep) {
      unpack_pieces<kBits, kWidth, kTiles>(pieces, i, table, ahead, multiply);
    }
  }
}

// The same for few rows: the tiles are unpacked on the way.
template <int kBits>
struct StoredHalf : NarrowHalf<kBits> {
  using NarrowHalf<kBits>::kTiles;
  static constexpr int64_t kBytes = PackedGroup<kBits>::kBytes;

  template <int kRows, int kWidth>
  PYTHIA_RT_IN_CALLER static void add(HalfInt (&dots)[kRows][kWidth], const uint8_t* pieces,
                                      const int8_t* codes, int64_t stride, Table table,
                                      const HalfConstants& constants, int64_t ahead) {
    const auto multiply =
        [&](int64_t i, const HalfTile(&tiles)[kWidth][kTiles]) __attribute__((always_inline)) {
          for (int r = 0; r < kRows; ++r) {
            for (int h = 0; h < kWidth; ++h) {
              const int8_t* a = codes + r * stride + 4 * i;
              dots[r][h] = half_narrow_dot(dots[r][h], tiles[h], a, constants);
              half_pin(dots[r][h]);
            }
          }
        };
    unpack_halves<kBits, kWidth, kTiles, (kRows > 2)>(pieces, table, ahead, multiply);
  }
};

// sums[r][8 * half + lane] of kRows rows and kWidth halves over all groups. Not inline: the
// integers need the registers. Reads the codes of all kRows rows, whether they count or not.
template <typename Half, int kWidth, int kRows>
[[gnu::noinline]] void add_halves(const QuantisedRows& in, const uint8_t* tiles,
                                  const uint8_t* weight_scales, int64_t groups, int64_t row,
                                  int half, Table table, int64_t ahead, float (*sums)[16]) {
  const int64_t stride = in.stride;
  const int8_t* codes = in.codes + row * stride;
  const int32_t* code_sums = in.sums + row * groups;
  const float* scales = in.scales + row * groups;
  const HalfConstants constants = half_constants();
  for (int r = 0; r < kRows; ++r) {
    for (int h = 0; h < kWidth; ++h) half_store(sums[r] + 8 * (half + h), half_zero());
  }
  tiles += 32 * half;
  for (int64_t group = 0; group < groups; ++group) {
    HalfInt dots[kRows][kWidth];
    for (auto& halves : dots) {
      for (HalfInt& dot : halves) dot = half_int_zero();
    }
    Half::add(dots, tiles + group * Half::kBytes, codes + group * kColumnGroup, stride, table,
              constants, ahead);
    const uint8_t* group_scales = weight_scales + group * kRowBlock * Half::Scales::kBytes;
    HalfVec weight_scale[kWidth];
    for (int h = 0; h < kWidth; ++h) weight_scale[h] = Half::load_scales(group_scales, half + h);
    for (int r = 0; r < kRows; ++r) {
      for (int h = 0; h < kWidth; ++h) {
        float* sum = sums[r] + 8 * (half + h);
        const HalfInt total = Half::finish(dots[r][h], code_sums + r * groups + group);
        half_store(sum,
                   half_fma(total, weight_scale[h], scales[r * groups + group], half_load(sum)));
      }
    }
  }
}

// The sums of a single row and a group of one block, whose two halves are read at once. An addition
// waits for the one before: sums take turns, which more than one tile at a time need not.
template <int kTiles>
struct RowSums {
  static constexpr int kTurns = kTiles == 1 ? 2 : 1;
  HalfInt halves[2][kTurns];

  HalfInt total(int half) const {
    return kTurns == 1 ? halves[half][0] : half_add(halves[half][0], halves[half][kTurns - 1]);
  }
};

template <int kBits>
struct NarrowRow : NarrowHalf<kBits> {
  using NarrowHalf<kBits>::kTiles;
  static constexpr int64_t kBytes = PackedGroup<kBits>::kBytes;

  PYTHIA_RT_IN_CALLER static void add(RowSums<kTiles>& sums, const uint8_t* group,
                                      const int8_t* codes, Table table,
                                      const HalfConstants& constants, int64_t ahead) {
    HalfInt part[2];  // fewer registers than the tiles of both halves
    const auto multiply = [&](int64_t i,
                              const HalfTile(&tiles)[2][1]) __attribute__((always_inline)) {
      for (int h = 0; h < 2; ++h) {
        HalfInt& sum = sums.halves[h][i % RowSums<kTiles>::kTurns];
        half_narrow_step<kTiles>(sum, part[h], tiles[h][0], codes + 4 * i, i % kTiles, constants);
        if (i % kTiles == kTiles - 1) half_pin(sum);
      }
    };
    unpack_halves<kBits, 2, 1, false>(group, table, ahead, multiply);
  }
};

struct WideRow : WideHalf {
  static constexpr int64_t kBytes = WideGroup::kBytes;

  PYTHIA_RT_IN_CALLER static void add(RowSums<1>& sums, const uint8_t* group, const int8_t* codes,
                                      Table, const HalfConstants& constants, int64_t ahead) {
    for (int64_t i = 0; i < kTilesPerGroup; i += 2) {
      for (int t = 0; t < 2; ++t) {
        const uint8_t* place = group + 64 * (i + t);
        __builtin_prefetch(place + ahead, 0, 2);
        for (int h = 0; h < 2; ++h) {
          HalfInt& sum = sums.halves[h][t];
          sum = half_wide_dot(sum, half_wide(load_half_tile(place + 32 * h)), codes + 4 * (i + t),
                              constants);
        }
      }
    }
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
    RowSums<Row::kTiles> sums;
    for (auto& turns : sums.halves) {
      for (HalfInt& sum : turns) sum = half_int_zero();
    }
    Row::add(sums, weights + group * Row::kBytes, codes + group * kColumnGroup, table, constants,
             kPrefetchBytes);
    const uint8_t* scale = weight_scales + group * kRowBlock * Row::Scales::kBytes;
    const int32_t* code_sum = code_sums + group;
    low = half_fma(Row::finish(sums.total(0), code_sum), Row::load_scales(scale, 0), scales[group],
                   low);
    high = half_fma(Row::finish(sums.total(1), code_sum), Row::load_scales(scale, 1), scales[group],
                    high);
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
template <typename Half, int kWidth, int kRows>
inline void multiply_half_rows(const LinearArguments& arguments, const uint8_t* tiles,
                               int64_t block, int64_t row, int64_t n_rows, int64_t ahead) {
  const Table table = table_of(arguments);
  const int64_t groups = count_groups(arguments);
  const uint8_t* weight_scales = static_cast<const uint8_t*>(arguments.matrix->scales) +
                                 block * groups * kRowBlock * Half::Scales::kBytes;
  alignas(64) float sums[kRows][16];
  for (int half = 0; half < 2; half += kWidth, ahead = 0) {
    add_halves<Half, kWidth, kRows>(arguments.quantised, tiles, weight_scales, groups, row, half,
                                    table, ahead, sums);
  }
  for (int r = 0; r < kRows && r < n_rows; ++r) {
    finish(arguments, block, row + r,
           Half::Scales::finish(*arguments.matrix, block, load(sums[r])));
  }
}

// Whether half_rows ever asks for tiles of this many rows; others are not compiled.
constexpr bool is_half_rows(int rows) {
  for (int rest = 1; rest <= 4 * kHalfRows; ++rest) {
    if (half_rows(rest) == rows) return true;
  }
  return false;
}

template <typename Half, int kRows = kHalfRows>
inline void multiply_half_rows_of(int rows, const LinearArguments& arguments, const uint8_t* tiles,
                                  int64_t block, int64_t row, int64_t n_rows, int64_t ahead) {
  if constexpr (kRows > 0) {
    if constexpr (is_half_rows(kRows)) {
      if (rows == kRows) {
        constexpr int kWidth = half_width(kRows, Half::kTiles);
        return multiply_half_rows<Half, kWidth, kRows>(arguments, tiles, block, row, n_rows, ahead);
      }
    }
    multiply_half_rows_of<Half, kRows - 1>(rows, arguments, tiles, block, row, n_rows, ahead);
  }
}

// One block times all rows. The first rows ask for weights ahead, unless a panel holds them: even a
// hundred rows wait for them otherwise.
template <typename Half>
inline void multiply_halves(const LinearArguments& arguments, const uint8_t* tiles, int64_t block,
                            int64_t ahead) {
  int64_t row = arguments.row_begin;
  for (int64_t rest = arguments.row_end - row; rest > 0; ahead = 0) {
    const int rows = half_rows(rest);
    multiply_half_rows_of<Half>(rows, arguments, tiles, block, row, rest, ahead);
    row += rows;
    rest -= rows;
  }
}

// Blocks as they are stored.
template <typename Half>
inline void linear_halves(const LinearArguments& arguments) {
  const int64_t groups = count_groups(arguments);
  for (int64_t block = arguments.block_begin; block < arguments.block_end; ++block) {
    multiply_halves<Half>(arguments, block_weights(arguments, block, groups * Half::kBytes), block,
                          kPrefetchBytes);
  }
}

template <int kBits>
inline void linear_packed_halves(const LinearArguments& arguments) {
  using Group = PackedGroup<kBits>;
  const int64_t groups = count_groups(arguments);
  const Table table = table_of(arguments);
  const auto store_tiles = [](uint8_t* out, Tile first, Tile second) {
    store_tile(out, first);
    store_tile(out + 64, second);
  };
  for (int64_t block = arguments.block_begin; block < arguments.block_end; ++block) {
    unpack_groups<Group>(block_weights(arguments, block, groups * Group::kBytes), groups, table,
                         arguments.panel, store_tiles, kPrefetchBytes);
    multiply_halves<NarrowHalf<kBits>>(arguments, arguments.panel, block, 0);
  }
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
