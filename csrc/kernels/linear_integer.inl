// Matrix product with q8 or q4 weights and activations of 8 bits.
//
// Each output is a sum over groups of 64 columns, in order: the group's integer dot product, which
// is exact, times the product of the two scales, added by one fused multiply-add.
#pragma once

#include "kernels/register_tiles.inl"

namespace pythia_rt::PYTHIA_RT_ISA {

constexpr int64_t kTilesPerGroup = kColumnGroup / 4;
constexpr int64_t kUnpackedGroup = kRowBlock * kColumnGroup;  // bytes

// How one group of a block of 16 rows is read: q8 as stored, q4 unpacked on the way, and q4 from a
// panel that was unpacked before (many rows share one unpacking).
struct WideGroup {
  static constexpr int64_t kBytes = kUnpackedGroup;
  static IntVec begin(int32_t sum) { return wide_begin(sum); }
  static IntVec dot(IntVec acc, Tile tile, const int8_t* a) { return wide_dot(acc, tile, a); }
};
struct NarrowGroup {
  static constexpr int64_t kBytes = kUnpackedGroup;
  static IntVec begin(int32_t sum) { return narrow_begin(sum); }
  static IntVec dot(IntVec acc, Tile tile, const int8_t* a) { return narrow_dot(acc, tile, a); }
};
struct NibbleGroup {
  static constexpr int64_t kBytes = kUnpackedGroup / 2;
  static IntVec begin(int32_t sum) { return narrow_begin(sum); }
  static IntVec dot(IntVec acc, Tile tile, const int8_t* a) { return narrow_dot(acc, tile, a); }
};

template <typename Group>
struct IntegerWork {
  const LinearArguments& arguments;
  int64_t groups;
  const uint8_t* weights;  // of first_block
  int64_t first_block;
  Table table;

  template <int kBlocks, int kRows>
  void run(int64_t block, int64_t row) const {
    const QuantisedRows& in = arguments.quantised;
    const int64_t block_bytes = groups * Group::kBytes;
    const uint8_t* tiles = weights + (block - first_block) * block_bytes;
    const int8_t* codes = in.codes + row * in.stride;
    const uint16_t* weight_scales = arguments.matrix->scales + block * groups * kRowBlock;
    Vec sum[kBlocks][kRows];
    for (auto& rows : sum) {
      for (Vec& lanes : rows) lanes = zero();
    }
    for (int64_t group = 0; group < groups; ++group) {
      IntVec dot[kBlocks][kRows];
      for (int r = 0; r < kRows; ++r) {
        const IntVec begin = Group::begin(in.sums[(row + r) * groups + group]);
        for (int b = 0; b < kBlocks; ++b) dot[b][r] = begin;
      }
      add_group(dot, tiles + group * Group::kBytes, block_bytes, codes + group * kColumnGroup);
      for (int b = 0; b < kBlocks; ++b) {
        const Vec weight_scale = load_f16(weight_scales + (b * groups + group) * kRowBlock);
        for (int r = 0; r < kRows; ++r) {
          const Vec scale = weight_scale * broadcast(in.scales[(row + r) * groups + group]);
          sum[b][r] = fma(to_float(dot[b][r]), scale, sum[b][r]);
        }
      }
    }
    for (int b = 0; b < kBlocks; ++b) {
      for (int r = 0; r < kRows; ++r) finish(arguments, block + b, row + r, sum[b][r]);
    }
  }

  template <int kBlocks, int kRows>
  void add_group(IntVec (&dot)[kBlocks][kRows], const uint8_t* tiles, int64_t block_bytes,
                 const int8_t* codes) const {
    for (int64_t i = 0; i < Group::kBytes / 64; ++i) {
      for (int b = 0; b < kBlocks; ++b) {
        const Tile tile = load_tile(tiles + b * block_bytes + i * 64);
        for (int r = 0; r < kRows; ++r) {
          const int8_t* row_codes = codes + r * arguments.quantised.stride;
          if constexpr (Group::kBytes == kUnpackedGroup) {
            dot[b][r] = Group::dot(dot[b][r], tile, row_codes + 4 * i);
          } else {
            dot[b][r] = Group::dot(dot[b][r], low_nibbles(tile, table), row_codes + 8 * i);
            dot[b][r] = Group::dot(dot[b][r], high_nibbles(tile, table), row_codes + 8 * i + 4);
          }
        }
      }
    }
  }
};

inline void unpack_nibbles(const uint8_t* in, int64_t bytes, Table table, uint8_t* out) {
  for (int64_t i = 0; i < bytes; i += 64) {
    const Tile tile = load_tile(in + i);
    store_tile(out + 2 * i, low_nibbles(tile, table));
    store_tile(out + 2 * i + 64, high_nibbles(tile, table));
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

// From this many rows on, unpacking a panel of 4-bit weights first costs less than unpacking them
// anew in every register tile.
constexpr int64_t kPanelRows = 3 * kTokenTile;

inline void linear_q8_vectors(const LinearArguments& arguments) {
  const int64_t groups = count_groups(arguments);
  const int64_t begin = arguments.block_begin;
  const uint8_t* weights = block_weights(arguments, begin, groups * WideGroup::kBytes);
  run_tiles(IntegerWork<WideGroup>{arguments, groups, weights, begin, table_of(arguments)},
            arguments);
}

inline void linear_q4_vectors(const LinearArguments& arguments) {
  const int64_t groups = count_groups(arguments);
  const Table table = table_of(arguments);
  const int64_t block_bytes = groups * NibbleGroup::kBytes;
  if (arguments.row_end - arguments.row_begin < kPanelRows) {
    const int64_t begin = arguments.block_begin;
    run_tiles(IntegerWork<NibbleGroup>{arguments, groups,
                                       block_weights(arguments, begin, block_bytes), begin, table},
              arguments);
    return;
  }
  LinearArguments part = arguments;
  for (int64_t block = arguments.block_begin; block < arguments.block_end; block += kRowTile) {
    part.block_begin = block;
    part.block_end =
        block + kRowTile < arguments.block_end ? block + kRowTile : arguments.block_end;
    unpack_nibbles(block_weights(arguments, block, block_bytes),
                   (part.block_end - block) * block_bytes, table, arguments.panel);
    run_tiles(IntegerWork<NarrowGroup>{part, groups, arguments.panel, block, table}, part);
  }
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
