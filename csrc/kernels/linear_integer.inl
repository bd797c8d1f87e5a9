// Matrix product with weights of 8, 6, 5 or 4 bits and activations of 8 bits.
//
// Each output is a sum over groups of 64 columns, in order: the group's integer dot product, which
// is exact, times the product of the two scales, added by one fused multiply-add. With 8-bit scales
// (formats/square_scales.h) the block's unit is multiplied in at the end.
#pragma once

#include "kernels/in_caller.h"
#include "kernels/register_tiles.inl"

namespace pythia_rt::PYTHIA_RT_ISA {

constexpr int64_t kTilesPerGroup = kColumnGroup / 4;
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

// How far ahead the first of few rows ask for their weights: hardware prefetching alone keeps too
// few reads under way where memory is slow to answer, and stops at the end of every page. They come
// into the second-level cache, which waits for more reads at a time than the first.
constexpr int64_t kPrefetchBytes = 8192;

// How one group of a block of 16 rows is read: q8 as stored, fewer bits unpacked on the way
// (formats/narrow.h has the layout), and fewer bits from a panel that was unpacked before (many
// rows share one unpacking). kAhead is kPrefetchBytes, or 0 for not asking ahead.
struct WideGroup {
  using Scales = HalfScales;
  static constexpr int64_t kAhead = kPrefetchBytes;
  static constexpr int kBits = 8;
  static constexpr int kOffset = 128;
  static constexpr bool kUnpacked = true;
  static constexpr int64_t kBytes = kUnpackedGroup;
  static IntVec begin(int32_t sum) { return wide_begin(sum); }
  static IntVec dot(IntVec acc, Tile tile, const int8_t* a) { return wide_dot(acc, tile, a); }
};
struct WideGroupOfManyRows : WideGroup {
  static constexpr int64_t kAhead = 0;
};
template <int kBitsPerCode>
struct PackedGroup {
  using Scales = SquareScaleCodes;
  static constexpr int64_t kAhead = kPrefetchBytes;
  static constexpr int kBits = kBitsPerCode;
  static constexpr int kHighBits = kBits - 4;
  static constexpr int kOffset = kBits == 4 ? 64 : 1 << (kBits - 1);
  static constexpr bool kUnpacked = false;
  static constexpr int64_t kNibbleBytes = kUnpackedGroup / 2;
  static constexpr int64_t kBytes = kUnpackedGroup * kBits / 8;
  // Pieces of 64 bytes of nibbles (two tiles each) that one half byte of high bits serves; without
  // high bits, all of them.
  static constexpr int kPieces = kHighBits == 0 ? 8 : 2 / kHighBits;
  static IntVec begin(int32_t sum) { return narrow_begin(kOffset * sum); }
  static IntVec dot(IntVec acc, Tile tile, const int8_t* a) { return narrow_dot(acc, tile, a); }

  // The high bits of the next tiles, lowest first, in the upper half of every byte. Asks for those
  // `ahead` bytes later, unless that is 0.
  static Tile load_high(const uint8_t* group, int64_t half, int64_t ahead,
                        Tile (*load)(const uint8_t*) = load_tile) {
    if constexpr (kHighBits == 0) {
      return Tile{};
    } else {
      const uint8_t* place = group + kNibbleBytes + half / 2 * 64;
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
template <int kBitsPerCode>
struct PanelGroup : PackedGroup<kBitsPerCode> {
  static constexpr int64_t kAhead = 0;
  static constexpr bool kUnpacked = true;
  static constexpr int64_t kBytes = kUnpackedGroup;
};

template <typename Group>
struct IntegerWork {
  using Scales = typename Group::Scales;

  // Decoding waits for the weights: one block at a time reads memory strictly forward, which
  // hardware prefetching follows twice as fast as four streams.
  static constexpr int kSingleRowTile = 1;

  const LinearArguments& arguments;
  int64_t groups;
  const uint8_t* weights;  // of first_block
  int64_t first_block;
  Table table;

  // An addition to an accumulator waits for the one before: with few outputs, each has several
  // accumulators that take turns. Integers add up to the same.
  template <int kBlocks, int kRows>
  static constexpr int kChains = kBlocks * kRows >= 4 ? 1 : 4 / (kBlocks * kRows);

  template <int kBlocks, int kRows>
  void run(int64_t block, int64_t row) const {
    constexpr int kTurns = kChains<kBlocks, kRows>;
    const QuantisedRows& in = arguments.quantised;
    const int64_t block_bytes = groups * Group::kBytes;
    const uint8_t* tiles = weights + (block - first_block) * block_bytes;
    const int8_t* codes = in.codes + row * in.stride;
    const uint8_t* weight_scales = static_cast<const uint8_t*>(arguments.matrix->scales) +
                                   block * groups * kRowBlock * Scales::kBytes;
    // Later rows find the weights in a cache.
    const int64_t ahead = row == arguments.row_begin ? Group::kAhead : 0;
    Vec sum[kBlocks][kRows];
    for (auto& rows : sum) {
      for (Vec& lanes : rows) lanes = zero();
    }
    for (int64_t group = 0; group < groups; ++group) {
      IntVec dot[kBlocks][kRows][kTurns];
      for (int r = 0; r < kRows; ++r) {
        const IntVec begin = Group::begin(in.sums[(row + r) * groups + group]);
        for (int b = 0; b < kBlocks; ++b) {
          dot[b][r][0] = begin;
          for (int turn = 1; turn < kTurns; ++turn) dot[b][r][turn] = int_zero();
        }
      }
      add_group(dot, tiles + group * Group::kBytes, block_bytes, codes + group * kColumnGroup,
                ahead);
      for (int b = 0; b < kBlocks; ++b) {
        const Vec weight_scale =
            Scales::load(weight_scales + (b * groups + group) * kRowBlock * Scales::kBytes);
        for (int r = 0; r < kRows; ++r) {
          const Vec scale = weight_scale * broadcast(in.scales[(row + r) * groups + group]);
          IntVec total = dot[b][r][0];
          for (int turn = 1; turn < kTurns; ++turn) total = total + dot[b][r][turn];
          sum[b][r] = fma(to_float(total), scale, sum[b][r]);
        }
      }
    }
    for (int b = 0; b < kBlocks; ++b) {
      for (int r = 0; r < kRows; ++r) {
        const Vec y = Scales::finish(*arguments.matrix, block + b, sum[b][r]);
        finish(arguments, block + b, row + r, y);
      }
    }
  }

  static Tile load_ahead(const uint8_t* place, [[maybe_unused]] int64_t ahead) {
    if constexpr (Group::kAhead > 0) __builtin_prefetch(place + ahead, 0, 2);
    return load_tile(place);
  }

  template <int kBlocks, int kRows, int kTurns>
  PYTHIA_RT_IN_CALLER void add_group(IntVec (&dot)[kBlocks][kRows][kTurns], const uint8_t* tiles,
                                     int64_t block_bytes, const int8_t* codes,
                                     int64_t ahead) const {
    const int64_t stride = arguments.quantised.stride;
    // Unrolled: accumulators stay in registers only while every index is a constant.
    if constexpr (Group::kUnpacked) {
#pragma GCC unroll 16
      for (int64_t i = 0; i < kTilesPerGroup; ++i) {
        for (int b = 0; b < kBlocks; ++b) {
          const Tile tile = load_ahead(tiles + b * block_bytes + i * 64, ahead);
          for (int r = 0; r < kRows; ++r) {
            IntVec& acc = dot[b][r][i % kTurns];
            acc = Group::dot(acc, tile, codes + r * stride + 4 * i);
            pin(acc);
          }
        }
      }
    } else {
      constexpr int64_t kHalves = kTilesPerGroup / 2 / Group::kPieces;
#pragma GCC unroll 8
      for (int64_t half = 0; half < kHalves; ++half) {
        Tile high[kBlocks];
        for (int b = 0; b < kBlocks; ++b) {
          high[b] = Group::load_high(tiles + b * block_bytes, half, ahead);
        }
#pragma GCC unroll 8
        for (int64_t p = half * Group::kPieces; p < (half + 1) * Group::kPieces; ++p) {
          for (int b = 0; b < kBlocks; ++b) {
            Tile first, second;
            Group::unpack(load_ahead(tiles + b * block_bytes + p * 64, ahead), high[b], table,
                          first, second);
            for (int r = 0; r < kRows; ++r) {
              const int8_t* row_codes = codes + r * stride + 8 * p;
              IntVec& even = dot[b][r][2 * p % kTurns];
              even = Group::dot(even, first, row_codes);
              IntVec& odd = dot[b][r][(2 * p + 1) % kTurns];
              odd = Group::dot(odd, second, row_codes + 4);
              pin(even);
              pin(odd);
            }
          }
        }
      }
    }
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
struct StoreTiles {
  void operator()(uint8_t* out, Tile first, Tile second) const {
    store_tile(out, first);
    store_tile(out + 64, second);
  }
};

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

// From this many rows on, nobody waits for weights, and unpacking a panel of them first costs less
// than unpacking them anew in every register tile. Halves have a kPanelRows of their own.
constexpr int kManyRows = 3 * kTokenTile;
#ifndef PYTHIA_RT_HALVES
constexpr int kPanelRows = kManyRows;
#endif

inline bool is_many_rows(const LinearArguments& arguments) {
  return arguments.row_end - arguments.row_begin >= kManyRows;
}

template <typename Group>
inline void run_stored(const LinearArguments& arguments) {
  const int64_t groups = count_groups(arguments);
  const int64_t begin = arguments.block_begin;
  run_tiles(
      IntegerWork<Group>{arguments, groups, block_weights(arguments, begin, groups * Group::kBytes),
                         begin, table_of(arguments)},
      arguments);
}

inline void linear_q8_few(const LinearArguments& arguments) { run_stored<WideGroup>(arguments); }
inline void linear_q8_many(const LinearArguments& arguments) {
  run_stored<WideGroupOfManyRows>(arguments);
}

template <int kBits>
inline void linear_packed_few(const LinearArguments& arguments) {
  run_stored<PackedGroup<kBits>>(arguments);
}
// The panel of some blocks. Not inline: it is over soon, and the products need the registers.
template <typename Group>
[[gnu::noinline]] void unpack_panel(const LinearArguments& arguments, int64_t groups) {
  const int64_t blocks = arguments.block_end - arguments.block_begin;
  unpack_groups<Group>(block_weights(arguments, arguments.block_begin, groups * Group::kBytes),
                       blocks * groups, table_of(arguments), arguments.panel, StoreTiles(),
                       kPrefetchBytes);
}

template <int kBits>
inline void linear_packed_many(const LinearArguments& arguments) {
  const int64_t groups = count_groups(arguments);
  LinearArguments part = arguments;
  for (int64_t block = arguments.block_begin; block < arguments.block_end; block += kRowTile) {
    part.block_begin = block;
    part.block_end =
        block + kRowTile < arguments.block_end ? block + kRowTile : arguments.block_end;
    unpack_panel<PackedGroup<kBits>>(part, groups);
    run_tiles(IntegerWork<PanelGroup<kBits>>{part, groups, arguments.panel, block, Table{}}, part);
  }
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
