// Weights of 8, 6, 5 and 4 bits, from the tiles of the file into fragments of the tensor cores.
//
// A warp takes one group of 64 columns of 32 rows, two blocks of 16. Which of the 32 rows is which
// row of a fragment is free, and so is the order of the columns, since integers add up to the same.
// Lane 4 g + q, with g = 4 b + j, takes rows 4 j to 4 j + 3 of block b and columns 16 q to
// 16 q + 15: of each tile of 16 rows x 4 columns 16 bytes in a row. They become the rows g and
// g + 8 of two products of 16 x 32 by 32 x 8; lane 4 g + q then owns
//
//   totals[m][i] = row 4 j + 2 m + i / 2 of block b, token 2 q + i % 2
//
// and the activations that it must bring are codes 16 q to 16 q + 15 of token g.
#pragma once

#include "cuda/kernels/linear_work.cuh"
#include "formats/group_layout.h"

namespace pythia_rt::cuda {

constexpr int kWarpRows = 2 * kRowBlock;

// Four levels of a table format, from `first` on, as signed bytes of one word.
template <typename Type>
constexpr unsigned four_levels(int first) {
  unsigned word = 0;
  for (int i = 0; i < 4; ++i) {
    word |= (static_cast<unsigned>(Type::level(first + i)) & 255u) << 8 * i;
  }
  return word;
}

// The levels of 8 nibbles: of the low ones, and of the high ones.
template <typename Type>
__device__ __forceinline__ void look_up(unsigned nibbles, unsigned& low, unsigned& high) {
  constexpr unsigned kLevels[4] = {four_levels<Type>(0), four_levels<Type>(4), four_levels<Type>(8),
                                   four_levels<Type>(12)};
  unsigned pairs[2];  // byte 0's low and high one, then byte 1's; the same of bytes 2 and 3
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const unsigned selector = nibbles >> 16 * i;
    const unsigned within = selector & 0x7777u;
    const unsigned lower = __byte_perm(kLevels[0], kLevels[1], within);
    const unsigned upper = __byte_perm(kLevels[2], kLevels[3], within);
    pairs[i] = __byte_perm(lower, upper, 0x3210u | (selector & 0x8888u) >> 1);
  }
  low = __byte_perm(pairs[0], pairs[1], 0x6420u);
  high = __byte_perm(pairs[0], pairs[1], 0x7531u);
}

// A lane's part of a group as it is stored.
template <typename Type>
struct IntegerGroup {
  using Layout = typename Type::Layout;
  static constexpr int kBits = Type::kBits;
  static constexpr int kHighBits = Layout::kHighBits;
  static constexpr int kPieces = kBits == 8 ? 4 : 2;  // for 16 columns

  uint4 pieces[kPieces];
  uint4 high;          // zero where there are no high bits
  unsigned scales[2];  // four codes in the first, or two halves in each

  // `weight` and `group_scales` are the block's and group's.
  __device__ __forceinline__ void load(const uint8_t* weight, const uint8_t* group_scales,
                                       int lane) {
    const int j = lane / 4 % 4;
    const int q = lane % 4;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      pieces[i] = *reinterpret_cast<const uint4*>(weight + (q * kPieces + i) * kTileBytes + j * 16);
    }
    if constexpr (kHighBits > 0) {
      const int plane = kHighBits == 2 ? q : q / 2;
      high = *reinterpret_cast<const uint4*>(weight + Layout::kNibbleBytes + plane * kTileBytes +
                                             j * 16);
    } else {
      high = make_uint4(0, 0, 0, 0);
    }
    if constexpr (kBits == 8) {
      const uint2 halves = *reinterpret_cast<const uint2*>(group_scales + j * 8);
      scales[0] = halves.x;
      scales[1] = halves.y;
    } else {
      scales[0] = *reinterpret_cast<const unsigned*>(group_scales + j * 4);
    }
  }

  // The scale of row 4 j + i, of square scales without the unit.
  __device__ __forceinline__ float scale(int i) const {
    if constexpr (kBits == 8) {
      return half_to_float(static_cast<uint16_t>(scales[i / 2] >> 16 * (i % 2)));
    } else {
      const auto code = static_cast<float>(static_cast<int8_t>(scales[0] >> 8 * i));
      return code * fabsf(code);
    }
  }

  // The fragments of product m and step s, 32 columns each.
  __device__ __forceinline__ void unpack(unsigned (&a)[2][2][4], int lane) const {
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      if constexpr (kBits == 8) {
        const uint4 tiles[2] = {pieces[2 * s], pieces[2 * s + 1]};
#pragma unroll
        for (int t = 0; t < 2; ++t) {
          a[0][s][2 * t] = tiles[t].x ^ 0x80808080u;
          a[0][s][2 * t + 1] = tiles[t].y ^ 0x80808080u;
          a[1][s][2 * t] = tiles[t].z ^ 0x80808080u;
          a[1][s][2 * t + 1] = tiles[t].w ^ 0x80808080u;
        }
      } else {
        const unsigned words[4] = {pieces[s].x, pieces[s].y, pieces[s].z, pieces[s].w};
        const unsigned planes[4] = {high.x, high.y, high.z, high.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          unsigned (&fragment)[4] = a[i / 2][s];
          unpack_word(words[i], planes[i], s, lane, fragment[i % 2], fragment[2 + i % 2]);
        }
      }
    }
  }

 private:
  // Four columns of one row in each half of the nibbles.
  __device__ __forceinline__ static void unpack_word(unsigned nibbles, unsigned plane, int s,
                                                     int lane, unsigned& first, unsigned& second) {
    if constexpr (kHighBits == 0) {
      look_up<Type>(nibbles, first, second);
    } else {
      // Half a byte of high bits serves four columns of a row, the high half first: 1 bit for four
      // tiles, which are this lane's, or 2 bits for two.
      const unsigned bits =
          kHighBits == 2 ? plane >> (s == 0 ? 4 : 0) : plane >> (lane % 2 == 0 ? 4 : 0) >> 2 * s;
      first = level(nibbles, bits);
      second = level(nibbles >> 4, bits >> kHighBits);
    }
  }

  // Signed bytes: code - offset, where adding 128 - offset and turning the top bit over cannot
  // carry into the next byte.
  __device__ __forceinline__ static unsigned level(unsigned nibbles, unsigned bits) {
    constexpr unsigned kOnes = 0x01010101u;
    constexpr unsigned kOffset = Layout::kOffset;
    const unsigned low = (nibbles & 15u * kOnes) | (128u - kOffset) * kOnes;
    return (low + ((bits & ((1u << kHighBits) - 1u) * kOnes) << 4)) ^ 128u * kOnes;
  }
};

// Where a lane reads: its block of rows, or the last one there is.
template <typename Type>
struct IntegerLane {
  using Layout = typename Type::Layout;

  const uint8_t* weight;
  const uint8_t* scales;

  __device__ __forceinline__ IntegerLane(const LinearWork& work, int first_row, int lane) {
    const int last_block = (work.rows - 1) / kRowBlock;
    const int64_t block = least(first_row / kRowBlock + lane / 16, last_block);
    weight = work.weight + block * work.groups * Layout::kGroupBytes;
    scales = work.scales + block * work.groups * kRowBlock * Layout::kScaleBytes;
  }

  __device__ __forceinline__ void load(IntegerGroup<Type>& group, int index, int lane) const {
    group.load(weight + static_cast<int64_t>(index) * Layout::kGroupBytes,
               scales + static_cast<int64_t>(index) * kRowBlock * Layout::kScaleBytes, lane);
  }
};

// An accumulator that begins with these bits is, read as a float, kFloatZero + its total, exactly.
constexpr int kFloatZeroBits = 0x4b400000;
constexpr float kFloatZero = 12582912.0f;  // 1.5 * 2^23
__device__ __forceinline__ float total_of(int accumulator) {
  return __int_as_float(accumulator) - kFloatZero;
}

// The totals of 32 rows and 8 tokens, as accumulators for total_of().
__device__ __forceinline__ void multiply(const unsigned (&a)[2][2][4], uint4 codes,
                                         int (&totals)[2][4]) {
  const unsigned first[2] = {codes.x, codes.y};
  const unsigned second[2] = {codes.z, codes.w};
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int i = 0; i < 4; ++i) totals[m][i] = kFloatZeroBits;
    mma_s8(totals[m], a[m][0], first);
    mma_s8(totals[m], a[m][1], second);
  }
}

// What the sum over all groups is still to be multiplied with.
template <typename Type>
__device__ __forceinline__ float with_unit(const LinearWork& work, int row, float sum) {
  return Type::kBits == 8 ? sum : sum * work.units[row / kRowBlock];
}

}  // namespace pythia_rt::cuda
