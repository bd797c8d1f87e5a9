// AVX2, FMA and F16C: vectors of ymm.h, whose bytes are multiplied in pairs that saturate at 16
// bits.
//
// Halves, beside ymm.h:
//   kHalves, kHalfRows           the largest register tile: halves x rows of activations
//   half_rows(rest)              how many of the rows that are left to multiply first, at least 2,
//                                the last of which need not be there
//   half_width(rows, tiles)      the halves of a register tile of so many rows, if the products of
//                                so many tiles are added at a time
//   kHalvesFrom                  how many rows halves are for; fewer go through whole tiles
//   kPanelRows                   from how many rows on it costs less to unpack a panel of weights
//                                first than to unpack them anew in every register tile
//   half_tiles(largest)          how many tiles' products half_narrow_dot may add before they have
//                                32 bits, if no byte is larger
//   half_constants()             what the products need, kept in registers
//   half_narrow_dot<kTiles>(acc, tiles, a, constants)
//                                acc + dots of kTiles tiles with 4 activations each
//   half_narrow_step<kTiles>(acc, part, tile, a, place, constants)
//                                the same a tile at a time, place = 0 .. kTiles - 1: part is what
//                                has been added so far, and acc is complete after the last
//   half_wide(stored)            wide weights, made ready for any number of
//   half_wide_dot(acc, wide, a, constants)
//   half_wide_finish(acc, sum)   takes back what is left of the offset; *sum is the activations'
#pragma once

#include "simd/ymm.h"

namespace pythia_rt::PYTHIA_RT_ISA {

constexpr int kHalvesFrom = 2;
constexpr int kPanelRows = 12;

// Beside 8 sums live the weights (q8: and their magnitudes), an activation, a product and a one.
// Both halves of few rows are read at once and share activations; four tiles each would not fit.
constexpr int kHalves = 1;
constexpr int kHalfRows = 8;
constexpr int half_width(int rows, int tiles) { return rows <= 4 && tiles <= 2 ? 2 : 1; }
// Rows cost the same in tiles of 4 to 8, less than in smaller ones and than rows that nobody needs.
constexpr int half_rows(int64_t rest) {
  if (rest > 11) return kHalfRows;
  const auto rows = static_cast<int>(rest);
  return rows > kHalfRows ? (rows + 1) / 2 : rows > 2 ? rows : 2;
}

// acc + the dot products of four bytes each, unsigned times signed. The products are first added
// in pairs, saturating at 16 bits: both callers pass magnitudes of at most 127, so that a pair is
// at most 2 * 127 * 127 = 32258 < 32767 and nothing saturates.
inline __m256i add_dots(__m256i acc, __m256i unsigned_bytes, __m256i signed_bytes) {
  const __m256i pairs = _mm256_maddubs_epi16(unsigned_bytes, signed_bytes);
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline IntVec narrow_dot(IntVec acc, Tile tile, const int8_t* a) {
  return dot_halves<add_dots>(acc, tile, a);
}
// Wide weights reach 255 unsigned, too much for add_dots: they are made signed (+-127), and the
// sign moves over to the activation. So nothing is left to take back at the start.
inline __m256i add_wide_dots(__m256i acc, __m256i stored, __m256i four) {
  const __m256i weights = _mm256_xor_si256(stored, _mm256_set1_epi8(-128));
  return add_dots(acc, _mm256_abs_epi8(weights), _mm256_sign_epi8(four, weights));
}
inline IntVec wide_begin(int32_t) { return int_zero(); }
inline IntVec wide_dot(IntVec acc, Tile tile, const int8_t* a) {
  return dot_halves<add_wide_dots>(acc, tile, a);
}

// Of 16 signed bits.
constexpr int half_tiles(int largest) { return 32767 / (2 * 127 * largest); }

// The compiler is told nothing of its value, so that it keeps it in a register.
struct HalfConstants {
  __m256i one;
};
inline HalfConstants half_constants() {
  HalfConstants constants{_mm256_set1_epi16(1)};
  asm("" : "+x"(constants.one));
  return constants;
}
template <int kTiles>
inline HalfInt half_narrow_dot(HalfInt acc, const HalfTile (&tiles)[kTiles], const int8_t* a,
                               const HalfConstants& constants) {
  __m256i pairs = _mm256_maddubs_epi16(tiles[0], broadcast_four(a));
  for (int t = 1; t < kTiles; ++t) {
    pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(tiles[t], broadcast_four(a + 4 * t)));
  }
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, constants.one));
}
template <int kTiles>
inline void half_narrow_step(HalfInt& acc, HalfInt& part, HalfTile tile, const int8_t* a,
                             int64_t place, const HalfConstants& constants) {
  const __m256i pairs = _mm256_maddubs_epi16(tile, broadcast_four(a));
  part = place == 0 ? pairs : _mm256_add_epi16(part, pairs);
  if (place == kTiles - 1) acc = _mm256_add_epi32(acc, _mm256_madd_epi16(part, constants.one));
}
struct HalfWide {
  HalfTile weights, magnitudes;
};
inline HalfWide half_wide(HalfTile stored) {
  const __m256i weights = _mm256_xor_si256(stored, _mm256_set1_epi8(-128));
  return {weights, _mm256_abs_epi8(weights)};
}
inline HalfInt half_wide_dot(HalfInt acc, HalfWide wide, const int8_t* a,
                             const HalfConstants& constants) {
  const __m256i pairs =
      _mm256_maddubs_epi16(wide.magnitudes, _mm256_sign_epi8(broadcast_four(a), wide.weights));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, constants.one));
}
inline HalfInt half_wide_finish(HalfInt acc, const int32_t*) { return acc; }

}  // namespace pythia_rt::PYTHIA_RT_ISA
