// AVX-VNNI: vectors of ymm.h, whose unsigned bytes are multiplied by signed ones, four at a time
// into 32 bits. Nothing saturates on the way, so the weights stay as they are stored, and their
// offset is taken back as on AVX-512. avx2.h documents the halves.
#pragma once

#include "simd/ymm.h"

namespace pythia_rt::PYTHIA_RT_ISA {

// Up to 4 rows of whole tiles fit the registers; a fifth would need the weights a second time.
constexpr int kHalvesFrom = 5;
constexpr int kPanelRows = 5;

// Beside 12 sums live two halves of weights and an activation. Half as many halves would need an
// activation fetched for every product, and 8 sums wait for each other.
constexpr int kHalves = 2;
constexpr int kHalfRows = 6;
constexpr int half_width(int, int) { return kHalves; }
// 2 rows, whose 4 sums wait for each other, take as long as 4: 7 and 8 are twice 4.
constexpr int half_rows(int64_t rest) {
  return rest > 8 || rest == 5 || rest == 6 ? 6 : rest > 2 ? 4 : 2;
}

// acc + the dot products of four bytes each, unsigned times signed. AVX-512 has the same
// instruction in another encoding, in which tests run it on processors without AVX-VNNI; all else,
// the registers too, is compiled as for AVX-VNNI. With the intrinsic GCC 12 copies one of 12 sums
// in every round.
#ifdef PYTHIA_RT_AVXVNNI_AS_EVEX
#define PYTHIA_RT_DOT "%{evex%} vpdpbusd"
#else
#define PYTHIA_RT_DOT "%{vex%} vpdpbusd"
#endif
inline __m256i add_dots(__m256i acc, __m256i unsigned_bytes, __m256i signed_bytes) {
  asm(PYTHIA_RT_DOT " %2, %1, %0" : "+x"(acc) : "x"(unsigned_bytes), "x"(signed_bytes));
  return acc;
}
#undef PYTHIA_RT_DOT
inline IntVec wide_begin(int32_t sum) { return int_broadcast(-128 * sum); }
inline IntVec wide_dot(IntVec acc, Tile tile, const int8_t* a) {
  return dot_halves<add_dots>(acc, tile, a);
}
inline IntVec narrow_dot(IntVec acc, Tile tile, const int8_t* a) { return wide_dot(acc, tile, a); }

constexpr int half_tiles(int) { return 1; }  // they become 32 bits at once

struct HalfConstants {};
inline HalfConstants half_constants() { return {}; }

template <int kTiles>
inline HalfInt half_narrow_dot(HalfInt acc, const HalfTile (&tiles)[kTiles], const int8_t* a,
                               const HalfConstants&) {
  for (int t = 0; t < kTiles; ++t) acc = add_dots(acc, tiles[t], broadcast_four(a + 4 * t));
  return acc;
}
template <int kTiles>
inline void half_narrow_step(HalfInt& acc, HalfInt&, HalfTile tile, const int8_t* a, int64_t,
                             const HalfConstants&) {
  acc = add_dots(acc, tile, broadcast_four(a));
}
using HalfWide = HalfTile;
inline HalfWide half_wide(HalfTile stored) { return stored; }
inline HalfInt half_wide_dot(HalfInt acc, HalfWide wide, const int8_t* a, const HalfConstants&) {
  return add_dots(acc, wide, broadcast_four(a));
}
inline HalfInt half_wide_finish(HalfInt acc, const int32_t* sum) {
  return half_subtract<7>(acc, sum);
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
