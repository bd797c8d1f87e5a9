// The vector in two 256-bit registers, by AVX2, FMA and F16C: all of simd.h but products of bytes,
// which avx2.h and avxvnni.h multiply each in its own way.
#pragma once

#include <immintrin.h>

#include "simd/simd.h"

namespace pythia_rt::PYTHIA_RT_ISA {

inline void leave_vectors() { _mm256_zeroupper(); }

constexpr int kRowTile = 1;
constexpr int kTokenTile = 4;  // 8 integer accumulators of 16 registers; the float ones may spill

// Lanes 0..7 and 8..15.
struct Vec {
  __m256 low, high;
};
struct IntVec {
  __m256i low, high;
};
// Rows 0..7 and 8..15.
struct Tile {
  __m256i low, high;
};
struct Table {
  __m256i value;
};

inline __m256i load_bytes(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
// All bits set in lanes 0..n-1 of the eight, the sign bit being what masked moves and blends read.
inline __m256i first_lanes(int64_t n) {
  const int count = n >= 8 ? 8 : n <= 0 ? 0 : static_cast<int>(n);
  const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), index);
}

inline Vec broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Vec zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, Vec v) {
  _mm256_storeu_ps(p, v.low);
  _mm256_storeu_ps(p + 8, v.high);
}
inline Vec load_first(const float* p, int64_t n) {
  return {_mm256_maskload_ps(p, first_lanes(n)), _mm256_maskload_ps(p + 8, first_lanes(n - 8))};
}
inline void store_first(float* p, Vec v, int64_t n) {
  _mm256_maskstore_ps(p, first_lanes(n), v.low);
  _mm256_maskstore_ps(p + 8, first_lanes(n - 8), v.high);
}
inline __m128i load_eight_16_bit(const uint16_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
inline Vec load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(load_eight_16_bit(p)), _mm256_cvtph_ps(load_eight_16_bit(p + 8))};
}
inline void store_f16(uint16_t* p, Vec v) {
  __m128i* destination = reinterpret_cast<__m128i*>(p);
  _mm_storeu_si128(destination, _mm256_cvtps_ph(v.low, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(destination + 1, _mm256_cvtps_ph(v.high, _MM_FROUND_TO_NEAREST_INT));
}
inline __m256 widen_bf16(__m128i eight) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(eight), 16));
}
inline Vec load_bf16(const uint16_t* p) {
  return {widen_bf16(load_eight_16_bit(p)), widen_bf16(load_eight_16_bit(p + 8))};
}

inline Vec operator+(Vec a, Vec b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline Vec operator-(Vec a, Vec b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline Vec operator*(Vec a, Vec b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Vec operator/(Vec a, Vec b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
// The processor's min is a < b ? a : b and its max a > b ? a : b, also for zeros of either sign.
inline Vec min(Vec a, Vec b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
inline Vec max(Vec a, Vec b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline Vec fma(Vec a, Vec b, Vec c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Vec abs(Vec a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}
inline Vec select_less(Vec a, Vec b, Vec x, Vec y) {
  return {_mm256_blendv_ps(y.low, x.low, _mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ)),
          _mm256_blendv_ps(y.high, x.high, _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ))};
}
inline Vec fill_after(Vec v, int64_t n, float x) {
  const __m256 fill = _mm256_set1_ps(x);
  return {_mm256_blendv_ps(fill, v.low, _mm256_castsi256_ps(first_lanes(n))),
          _mm256_blendv_ps(fill, v.high, _mm256_castsi256_ps(first_lanes(n - 8)))};
}
// The permutation looks at three bits of an index; the fourth, as a sign, chooses the half.
inline __m256 lookup_eight(Vec v, __m256i index) {
  const __m256 low = _mm256_permutevar8x32_ps(v.low, index);
  const __m256 high = _mm256_permutevar8x32_ps(v.high, index);
  return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}
inline Vec lookup(Vec v, IntVec index) {
  return {lookup_eight(v, index.low), lookup_eight(v, index.high)};
}
inline float reduce_add(Vec v) {
  const __m256 sum8 = _mm256_add_ps(v.low, v.high);
  const __m128 sum4 = _mm_add_ps(_mm256_castps256_ps128(sum8), _mm256_extractf128_ps(sum8, 1));
  const __m128 sum2 = _mm_add_ps(sum4, _mm_movehl_ps(sum4, sum4));
  return _mm_cvtss_f32(_mm_add_ss(sum2, _mm_movehdup_ps(sum2)));
}
inline float reduce_max(Vec v) {
  const __m256 max8 = _mm256_max_ps(v.low, v.high);
  const __m128 max4 = _mm_max_ps(_mm256_castps256_ps128(max8), _mm256_extractf128_ps(max8, 1));
  const __m128 max2 = _mm_max_ps(max4, _mm_movehl_ps(max4, max4));
  return _mm_cvtss_f32(_mm_max_ss(max2, _mm_movehdup_ps(max2)));
}
inline float square_root(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }

inline IntVec int_broadcast(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline IntVec int_zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline IntVec int_load(const int32_t* p) { return {load_bytes(p), load_bytes(p + 8)}; }
inline void int_store(int32_t* p, IntVec v) {
  __m256i* destination = reinterpret_cast<__m256i*>(p);
  _mm256_storeu_si256(destination, v.low);
  _mm256_storeu_si256(destination + 1, v.high);
}
inline IntVec operator+(IntVec a, IntVec b) {
  return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
inline __m256i add_eight_if_less(__m256i v, __m256 a, __m256 b, int32_t n) {
  const __m256i less = _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_LT_OQ));
  return _mm256_add_epi32(v, _mm256_and_si256(less, _mm256_set1_epi32(n)));
}
inline IntVec add_if_less(IntVec v, Vec a, Vec b, int32_t n) {
  return {add_eight_if_less(v.low, a.low, b.low, n), add_eight_if_less(v.high, a.high, b.high, n)};
}
inline Vec to_float(IntVec v) { return {_mm256_cvtepi32_ps(v.low), _mm256_cvtepi32_ps(v.high)}; }
inline IntVec round_to_int(Vec v) {
  return {_mm256_cvtps_epi32(v.low), _mm256_cvtps_epi32(v.high)};
}
inline __m256i widen_eight_i8(const int8_t* p) {
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
inline IntVec load_i8(const int8_t* p) { return {widen_eight_i8(p), widen_eight_i8(p + 8)}; }
inline void store_i8(int8_t* p, IntVec v) {
  // The packs saturate, which changes nothing in range; the first works within 128-bit lanes, so
  // its quarters come out in the order 0, 2, 1, 3.
  const __m256i words =
      _mm256_permute4x64_epi64(_mm256_packs_epi32(v.low, v.high), _MM_SHUFFLE(3, 1, 2, 0));
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(p),
      _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
inline int32_t int_reduce_add(IntVec v) {
  const __m256i sum8 = _mm256_add_epi32(v.low, v.high);
  const __m128i sum4 =
      _mm_add_epi32(_mm256_castsi256_si128(sum8), _mm256_extracti128_si256(sum8, 1));
  const __m128i sum2 = _mm_add_epi32(sum4, _mm_shuffle_epi32(sum4, _MM_SHUFFLE(1, 0, 3, 2)));
  return _mm_cvtsi128_si32(_mm_add_epi32(sum2, _mm_shuffle_epi32(sum2, 1)));
}
inline __m256 power_of_two(__m256i n) {
  const __m256i biased = _mm256_add_epi32(n, _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
inline Vec scale_by_power(Vec v, IntVec n) {
  return {_mm256_mul_ps(v.low, power_of_two(n.low)), _mm256_mul_ps(v.high, power_of_two(n.high))};
}

inline Tile load_tile(const uint8_t* p) { return {load_bytes(p), load_bytes(p + 32)}; }
inline void store_tile(uint8_t* p, Tile tile) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), tile.low);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), tile.high);
}
inline Tile subtract_offset(Tile tile, uint8_t offset) {
  const __m256i offsets = _mm256_set1_epi8(static_cast<char>(offset));
  return {_mm256_sub_epi8(tile.low, offsets), _mm256_sub_epi8(tile.high, offsets)};
}
inline __m256i broadcast_four(const int8_t* a) {
  int32_t four;
  __builtin_memcpy(&four, a, 4);
  return _mm256_set1_epi32(four);
}
// acc + what kAdd(acc, weights, activations) adds to each half, for the same four activations.
template <auto kAdd>
inline IntVec dot_halves(IntVec acc, Tile tile, const int8_t* a) {
  const __m256i four = broadcast_four(a);
  return {kAdd(acc.low, tile.low, four), kAdd(acc.high, tile.high, four)};
}
// Halves of a tile and of what belongs to it, a register each: rows 0..7 or 8..15.
#define PYTHIA_RT_HALVES
using HalfTile = __m256i;
using HalfInt = __m256i;
using HalfVec = __m256;
inline HalfVec half_zero() { return _mm256_setzero_ps(); }
inline HalfInt half_int_zero() { return _mm256_setzero_si256(); }
inline HalfVec half_load(const float* p) { return _mm256_load_ps(p); }
inline void half_store(float* p, HalfVec v) { _mm256_store_ps(p, v); }
inline HalfTile load_half_tile(const uint8_t* p) { return load_bytes(p); }
// The compiler keeps the sum in one register: else it copies all of them in every round of a loop.
inline void half_pin(HalfInt& sum) { asm("" : "+x"(sum)); }
// sum - *factor << kShift in every lane.
template <int kShift>
inline HalfInt half_subtract(HalfInt sum, const int32_t* factor) {
  return _mm256_sub_epi32(sum, _mm256_slli_epi32(_mm256_set1_epi32(*factor), kShift));
}
inline HalfVec half_to_float(HalfInt v) { return _mm256_cvtepi32_ps(v); }
// sum + dots * (weight_scale * scale), rounded as fma and * of Vec are.
inline HalfVec half_fma(HalfInt dots, HalfVec weight_scale, float scale, HalfVec sum) {
  return _mm256_fmadd_ps(half_to_float(dots), _mm256_mul_ps(weight_scale, _mm256_set1_ps(scale)),
                         sum);
}
// Scales as load_f16 and load_i8 read them, n the first lane.
inline HalfVec half_load_f16(const uint16_t* p) { return _mm256_cvtph_ps(load_eight_16_bit(p)); }
// code * |code| of 8 codes.
inline HalfVec half_load_squares(const int8_t* p) {
  const __m256 code = _mm256_cvtepi32_ps(
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  return _mm256_mul_ps(code, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), code));
}
inline HalfInt half_add(HalfInt a, HalfInt b) { return _mm256_add_epi32(a, b); }
inline Vec join(HalfVec low, HalfVec high) { return {low, high}; }
// A half of a tile as the low half of one whose other half does not count.
inline Tile load_as_low_half(const uint8_t* p) {
  const HalfTile half = load_half_tile(p);
  return {half, half};
}
inline HalfTile half_of(Tile tile, int half) { return half == 0 ? tile.low : tile.high; }

inline void pin(IntVec&) {}
inline IntVec narrow_begin(int32_t sum) { return int_broadcast(-sum); }

// There are no shifts of bytes: those of 16 bits bring in bits that the masks take away.
inline Tile low_codes(Tile tile) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(tile.low, mask), _mm256_and_si256(tile.high, mask)};
}
inline Tile high_codes(Tile tile) {
  return low_codes({_mm256_srli_epi16(tile.low, 4), _mm256_srli_epi16(tile.high, 4)});
}
inline Tile shift_left_4(Tile tile) {
  return {_mm256_slli_epi16(tile.low, 4), _mm256_slli_epi16(tile.high, 4)};
}
template <int n>
inline Tile shift_right(Tile tile) {
  return {_mm256_srli_epi16(tile.low, n), _mm256_srli_epi16(tile.high, n)};
}
inline Tile merge_bits(Tile tile, Tile bits, uint8_t mask) {
  const __m256i wanted = _mm256_set1_epi8(static_cast<char>(mask));
  return {_mm256_or_si256(tile.low, _mm256_and_si256(bits.low, wanted)),
          _mm256_or_si256(tile.high, _mm256_and_si256(bits.high, wanted))};
}

// The byte shuffle works within 128-bit lanes: each gets its copy of the table.
inline Table load_table(const uint8_t* p) {
  return {_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline __m256i look_up(Table table, __m256i bytes) {
  return _mm256_shuffle_epi8(table.value, _mm256_and_si256(bytes, _mm256_set1_epi8(15)));
}
inline Tile low_nibbles(Tile tile, Table table) {
  return {look_up(table, tile.low), look_up(table, tile.high)};
}
inline Tile high_nibbles(Tile tile, Table table) {
  return {look_up(table, _mm256_srli_epi16(tile.low, 4)),
          look_up(table, _mm256_srli_epi16(tile.high, 4))};
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
