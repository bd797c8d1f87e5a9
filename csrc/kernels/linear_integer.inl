// Matrix product with weights of 8, 6, 5 or 4 bits and activations of 8 bits.
//
// Each output is a sum over groups of 64 columns, in order: the group's integer dot product, which
// is exact, times the product of the two scales, added by one fused multiply-add. With 8-bit scales
// (formats/square_scales.h) the block's unit is multiplied in at the end.
#pragma once

#include "formats/group_layout.h"
#include "kernels/finish.inl"
#include "kernels/in_caller.h"

namespace pythia_rt::PYTHIA_RT_ISA {

constexpr int64_t kTilesPerGroup = kColumnGroup / kTileColumns;
constexpr int64_t kUnpackedGroup = kRowBlock * kColumnGroup;  // bytes

struct HalfScales {
  static constexpr int64_t kBytes = 2;
  static Vec load(const uint8_t* p) { return load_f16(reinterpret_cast<const uint16_t*>(p)); }
  static Vec finish(const Matrix&, int64_t, Vec sum) { return sum; }
};
struct SquareScaleCodes {
  static constexpr int64_t kBytes = 1;
  static Vec load(const uint8_t* p) {
    const Vec code = to_float(load_i8(reinterpret_cast<const int8_t*>(p)));
    return code * abs(code);
  }
  static Vec finish(const Matrix& matrix, int64_t block, Vec sum) {
    return sum * broadcast(matrix.units[block]);
  }
};

// How far ahead the first rows ask for their weights: hardware prefetching alone keeps too few
// reads under way where memory is slow to answer, and stops at the end of every page. They come
// into the second-level cache, which waits for more reads at a time than the first.
constexpr int64_t kPrefetchBytes = 8192;

// How one group of a block of 16 rows is read: q8 as stored, fewer bits unpacked on the way
// (formats/group_layout.h).
struct WideGroup {
  using Scales = HalfScales;
  static constexpr int kOffset = GroupLayout<8>::kOffset;
  static constexpr bool kUnpacked = true;
  static constexpr int64_t kBytes = kUnpackedGroup;
  static IntVec begin(int32_t sum) { return wide_begin(sum); }
  static IntVec dot(IntVec acc, Tile tile, const int8_t* a) { return wide_dot(acc, tile, a); }
};
template <int kBitsPerCode>
struct PackedGroup {
  using Scales = SquareScaleCodes;
  using Layout = GroupLayout<kBitsPerCode>;
  static constexpr int kBits = kBitsPerCode;
  static constexpr int kHighBits = Layout::kHighBits;
  static constexpr int kOffset = Layout::kOffset;
  static constexpr bool kUnpacked = false;
  static constexpr int64_t kBytes = Layout::kGroupBytes;
  // Pieces of 64 bytes of nibbles (two tiles each) that one half byte of high bits serves; without
  // high bits, all of them.
  static constexpr int kPieces = Layout::kTilesPerHalf / 2;
  static IntVec begin(int32_t sum) { return narrow_begin(kOffset * sum); }
  static IntVec dot(IntVec acc, Tile tile, const int8_t* a) { return narrow_dot(acc, tile, a); }

  // The high bits of the next tiles, lowest first, in the upper half of every byte. Asks for those
  // `ahead` bytes later, unless that is 0.
  static Tile load_high(const uint8_t* group, int64_t half, int64_t ahead,
                        Tile (*load)(const uint8_t*) = load_tile) {
    if constexpr (kHighBits == 0) {
      return Tile{};
    } else {
      const uint8_t* place = group + Layout::kNibbleBytes + half / 2 * kTileBytes;
      if (half % 2 == 0 && ahead != 0) __builtin_prefetch(place + ahead, 0, 2);
      const Tile plane = load(place);
      return half % 2 == 0 ? plane : shift_left_4(plane);
    }
  }
  // Two tiles out of one piece, in this order; `high` moves on.
  static Tile unpack_first(Tile piece, Tile& high, Table table) {
    if constexpr (kHighBits == 0) {
      return low_nibbles(piece, table);
    } else {
      return add_high(low_codes(piece), high);
    }
  }
  static Tile unpack_second(Tile piece, Tile& high, Table table) {
    if constexpr (kHighBits == 0) {
      return high_nibbles(piece, table);
    } else {
      return add_high(high_codes(piece), high);
    }
  }
  static void unpack(Tile piece, Tile& high, Table table, Tile& first, Tile& second) {
    first = unpack_first(piece, high, table);
    second = unpack_second(piece, high, table);
  }

 private:
  static Tile add_high(Tile low, Tile& high) {
    constexpr uint8_t kMask = ((1 << kHighBits) - 1) << 4;
    const Tile tile = merge_bits(low, high, kMask);
    high = shift_right<kHighBits>(high);
    return tile;
  }
};
// Unpacks whole groups to `out`: store(out, first, second) puts two neighbouring tiles there. Asks
// for packed ones `ahead` bytes later, unless that is 0.
template <typename Group, typename Store>
inline void unpack_groups(const uint8_t* in, int64_t groups, [[maybe_unused]] Table table,
                          uint8_t* out, const Store& store, [[maybe_unused]] int64_t ahead = 0) {
  if constexpr (Group::kUnpacked) {
    for (int64_t i = 0; i < groups * Group::kBytes; i += 128) {
      store(out + i, load_tile(in + i), load_tile(in + i + 64));
    }
  } else {
    for (int64_t group = 0; group < groups; ++group, in += Group::kBytes) {
      for (int64_t half = 0; half < kTilesPerGroup / 2 / Group::kPieces; ++half) {
        Tile high = Group::load_high(in, half, ahead);
        for (int64_t p = half * Group::kPieces; p < (half + 1) * Group::kPieces; ++p, out += 128) {
          if (ahead != 0) __builtin_prefetch(in + p * 64 + ahead, 0, 2);
          Tile first, second;
          Group::unpack(load_tile(in + p * 64), high, table, first, second);
          store(out, first, second);
        }
      }
    }
  }
}

inline const uint8_t* block_weights(const LinearArguments& arguments, int64_t block,
                                    int64_t block_bytes) {
  return static_cast<const uint8_t*>(arguments.matrix->weight) + block * block_bytes;
}

inline int64_t count_groups(const LinearArguments& arguments) {
  return (arguments.matrix->columns + kColumnGroup - 1) / kColumnGroup;
}

// The table of formats without one is never looked at; any 16 bytes serve.
inline Table table_of(const LinearArguments& arguments) {
  static const uint8_t kNone[16] = {};
  return load_table(arguments.matrix->table != nullptr ? arguments.matrix->table : kNone);
}

// Rows of a register tile: of one block, with as many outputs as several blocks have of fewer rows.
constexpr int kTileRows = kRowTile * kTokenTile;

// An addition to an accumulator waits for the one before: few rows have several accumulators each,
// which take turns. Integers add up to the same.
constexpr int turns_of(int rows) { return rows < 4 ? 4 / rows : 1; }

inline Tile load_ahead(const uint8_t* place, int64_t ahead) {
  __builtin_prefetch(place + ahead, 0, 2);
  return load_tile(place);
}

// Adds one group's products. Unrolled, as all loops over accumulators: they stay in registers only
// while every index is a constant.
template <typename Group, int kRows, int kTurns>
PYTHIA_RT_IN_CALLER inline void add_group(IntVec (&dots)[kRows][kTurns], const uint8_t* tiles,
                                          const int8_t* codes, int64_t stride,
                                          [[maybe_unused]] Table table, int64_t ahead) {
  if constexpr (Group::kUnpacked) {
#pragma GCC unroll 16
    for (int64_t i = 0; i < kTilesPerGroup; ++i) {
      const Tile tile = load_ahead(tiles + i * 64, ahead);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        IntVec& acc = dots[r][i % kTurns];
        acc = Group::dot(acc, tile, codes + r * stride + 4 * i);
        pin(acc);
      }
    }
  } else {
    constexpr int64_t kHalves = kTilesPerGroup / 2 / Group::kPieces;
#pragma GCC unroll 8
    for (int64_t half = 0; half < kHalves; ++half) {
      Tile high = Group::load_high(tiles, half, ahead);
#pragma GCC unroll 8
      for (int64_t p = half * Group::kPieces; p < (half + 1) * Group::kPieces; ++p) {
        Tile first, second;
        Group::unpack(load_ahead(tiles + p * 64, ahead), high, table, first, second);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const int8_t* row_codes = codes + r * stride + 8 * p;
          IntVec& even = dots[r][2 * p % kTurns];
          even = Group::dot(even, first, row_codes);
          IntVec& odd = dots[r][(2 * p + 1) % kTurns];
          odd = Group::dot(odd, second, row_codes + 4);
          pin(even);
          pin(odd);
        }
      }
    }
  }
}

// kRows rows of one block, which asks for weights `ahead` bytes later, if not 0. Not inline: the
// sums of integers and of floats need the registers.
template <typename Group, int kRows>
[[gnu::noinline]] void multiply_stored(const LinearArguments& arguments, int64_t groups,
                                       int64_t block, int64_t row, int64_t ahead) {
  using Scales = typename Group::Scales;
  constexpr int kTurns = turns_of(kRows);
  const QuantisedRows& in = arguments.quantised;
  const int64_t stride = in.stride;
  const int8_t* codes = in.codes + row * stride;
  const int32_t* code_sums = in.sums + row * groups;
  const float* scales = in.scales + row * groups;
  const uint8_t* tiles = block_weights(arguments, block, groups * Group::kBytes);
  const uint8_t* weight_scales = static_cast<const uint8_t*>(arguments.matrix->scales) +
                                 block * groups * kRowBlock * Scales::kBytes;
  const Table table = table_of(arguments);
  ask_for_places(arguments, block, row, kRows);
  Vec sums[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) sums[r] = zero();
  for (int64_t group = 0; group < groups; ++group) {
    IntVec dots[kRows][kTurns];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      dots[r][0] = Group::begin(code_sums[r * groups + group]);
#pragma GCC unroll 4
      for (int turn = 1; turn < kTurns; ++turn) dots[r][turn] = int_zero();
    }
    add_group<Group>(dots, tiles + group * Group::kBytes, codes + group * kColumnGroup, stride,
                     table, ahead);
    const Vec weight_scale = Scales::load(weight_scales + group * kRowBlock * Scales::kBytes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec scale = weight_scale * broadcast(scales[r * groups + group]);
      IntVec total = dots[r][0];
#pragma GCC unroll 4
      for (int turn = 1; turn < kTurns; ++turn) total = total + dots[r][turn];
      sums[r] = fma(to_float(total), scale, sums[r]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    finish(arguments, block, row + r, Scales::finish(*arguments.matrix, block, sums[r]));
  }
}

template <typename Group, int kRows = kTileRows>
inline void multiply_stored_of(int64_t rows, const LinearArguments& arguments, int64_t groups,
                               int64_t block, int64_t row, int64_t ahead) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      return multiply_stored<Group, kRows>(arguments, groups, block, row, ahead);
    }
    multiply_stored_of<Group, kRows - 1>(rows, arguments, groups, block, row, ahead);
  }
}

// One block at a time, so that memory is read strictly forward, times all rows, in tiles as alike
// as can be. Later rows find the weights in a cache.
template <typename Group>
inline void linear_stored(const LinearArguments& arguments) {
  const int64_t groups = count_groups(arguments);
  for (int64_t block = arguments.block_begin; block < arguments.block_end; ++block) {
    int64_t row = arguments.row_begin;
    int64_t ahead = kPrefetchBytes;
    for (int64_t left = (arguments.row_end - row + kTileRows - 1) / kTileRows; left > 0; --left) {
      const int64_t rows = (arguments.row_end - row + left - 1) / left;
      multiply_stored_of<Group>(rows, arguments, groups, block, row, ahead);
      row += rows;
      ahead = 0;
    }
  }
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
