// The vector in one 512-bit register: AVX-512 F, BW, VL and VNNI. See simd.h for the interface.
#pragma once

#include <immintrin.h>

#include "simd/simd.h"

namespace pythia_rt::PYTHIA_RT_ISA {

inline void leave_vectors() { _mm256_zeroupper(); }

constexpr int kRowTile = 2;
constexpr int kTokenTile = 6;  // 12 integer and 12 float accumulators of 32 registers

struct Vec {
  __m512 value;
};
struct IntVec {
  __m512i value;
};
struct Tile {
  __m512i value;
};
struct Table {
  __m512i value;
};

inline __mmask16 first_lanes(int64_t n) {
  return n >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << n) - 1);
}

inline Vec zero() { return {_mm512_setzero_ps()}; }
inline Vec broadcast(float x) { return {_mm512_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vec v) { _mm512_storeu_ps(p, v.value); }
inline Vec load_first(const float* p, int64_t n) {
  return {_mm512_maskz_loadu_ps(first_lanes(n), p)};
}
inline void store_first(float* p, Vec v, int64_t n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), v.value);
}
inline Vec load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline void store_f16(uint16_t* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(v.value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline Vec load_bf16(const uint16_t* p) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
}

inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.value, b.value)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.value, b.value)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.value, b.value)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.value, b.value)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.value, b.value)}; }
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.value, b.value)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.value, b.value, c.value)}; }
inline Vec abs(Vec a) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a.value), magnitude))};
}
inline Vec select_less(Vec a, Vec b, Vec x, Vec y) {
  const __mmask16 less = _mm512_cmp_ps_mask(a.value, b.value, _CMP_LT_OQ);
  return {_mm512_mask_blend_ps(less, y.value, x.value)};
}
inline Vec fill_after(Vec v, int64_t n, float x) {
  return {_mm512_mask_blend_ps(first_lanes(n), _mm512_set1_ps(x), v.value)};
}
inline Vec lookup(Vec v, IntVec index) { return {_mm512_permutexvar_ps(index.value, v.value)}; }
inline __m256 low_half(Vec v) { return _mm512_castps512_ps256(v.value); }
inline __m256 high_half(Vec v) {
  return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v.value), 1));
}
inline float reduce_add(Vec v) {
  const __m256 sum8 = _mm256_add_ps(low_half(v), high_half(v));
  const __m128 sum4 = _mm_add_ps(_mm256_castps256_ps128(sum8), _mm256_extractf128_ps(sum8, 1));
  const __m128 sum2 = _mm_add_ps(sum4, _mm_movehl_ps(sum4, sum4));
  return _mm_cvtss_f32(_mm_add_ss(sum2, _mm_movehdup_ps(sum2)));
}
inline float reduce_max(Vec v) {
  const __m256 max8 = _mm256_max_ps(low_half(v), high_half(v));
  const __m128 max4 = _mm_max_ps(_mm256_castps256_ps128(max8), _mm256_extractf128_ps(max8, 1));
  const __m128 max2 = _mm_max_ps(max4, _mm_movehl_ps(max4, max4));
  return _mm_cvtss_f32(_mm_max_ss(max2, _mm_movehdup_ps(max2)));
}
inline float square_root(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }

inline IntVec int_zero() { return {_mm512_setzero_si512()}; }
inline IntVec int_broadcast(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline IntVec int_load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
inline void int_store(int32_t* p, IntVec v) { _mm512_storeu_si512(p, v.value); }
inline IntVec operator+(IntVec a, IntVec b) { return {_mm512_add_epi32(a.value, b.value)}; }
inline IntVec add_if_less(IntVec v, Vec a, Vec b, int32_t n) {
  const __mmask16 less = _mm512_cmp_ps_mask(a.value, b.value, _CMP_LT_OQ);
  return {_mm512_mask_add_epi32(v.value, less, v.value, _mm512_set1_epi32(n))};
}
inline Vec to_float(IntVec v) { return {_mm512_cvtepi32_ps(v.value)}; }
inline IntVec round_to_int(Vec v) {
  return {_mm512_cvt_roundps_epi32(v.value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline IntVec load_i8(const int8_t* p) {
  return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline void store_i8(int8_t* p, IntVec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v.value));
}
inline int32_t int_reduce_add(IntVec v) { return _mm512_reduce_add_epi32(v.value); }
inline Vec scale_by_power(Vec v, IntVec n) {
  const __m512i biased = _mm512_add_epi32(n.value, _mm512_set1_epi32(127));
  return {_mm512_mul_ps(v.value, _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23)))};
}

// VNNI multiplies unsigned bytes (the stored weights) by signed ones (the activations), four at a
// time into i32 without saturation. The offset is taken back at the start of the accumulator.
inline Tile load_tile(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline void store_tile(uint8_t* p, Tile tile) { _mm512_storeu_si512(p, tile.value); }
inline Tile subtract_offset(Tile tile, uint8_t offset) {
  return {_mm512_sub_epi8(tile.value, _mm512_set1_epi8(static_cast<char>(offset)))};
}
inline IntVec wide_begin(int32_t sum) { return int_broadcast(-128 * sum); }
inline void pin(IntVec&) {}
inline IntVec narrow_begin(int32_t sum) { return int_broadcast(-sum); }
// The instruction spreads the four activations itself; GCC 12 makes two of the intrinsic.
inline IntVec wide_dot(IntVec acc, Tile tile, const int8_t* a) {
  asm("vpdpbusd %2%{1to16%}, %1, %0"
      : "+v"(acc.value)
      : "v"(tile.value), "m"(*reinterpret_cast<const int8_t (*)[4]>(a)));
  return acc;
}
inline IntVec narrow_dot(IntVec acc, Tile tile, const int8_t* a) { return wide_dot(acc, tile, a); }

// There are no shifts of bytes: those of 16 bits bring in bits that the masks take away.
inline Tile low_codes(Tile tile) { return {_mm512_and_si512(tile.value, _mm512_set1_epi8(15))}; }
inline Tile high_codes(Tile tile) { return low_codes({_mm512_srli_epi16(tile.value, 4)}); }
inline Tile shift_left_4(Tile tile) { return {_mm512_slli_epi16(tile.value, 4)}; }
template <int n>
inline Tile shift_right(Tile tile) {
  return {_mm512_srli_epi16(tile.value, n)};
}
inline Tile merge_bits(Tile tile, Tile bits, uint8_t mask) {
  constexpr int kAOrBAndC = 0xf8;  // the truth table of a | (b & c)
  return {_mm512_ternarylogic_epi32(tile.value, bits.value,
                                    _mm512_set1_epi8(static_cast<char>(mask)), kAOrBAndC)};
}

// The byte shuffle works within 128-bit lanes: every lane gets its copy of the table.
inline Table load_table(const uint8_t* p) {
  return {_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline Tile low_nibbles(Tile tile, Table table) {
  const __m512i codes = _mm512_and_si512(tile.value, _mm512_set1_epi8(15));
  return {_mm512_shuffle_epi8(table.value, codes)};
}
inline Tile high_nibbles(Tile tile, Table table) {
  const __m512i shifted = _mm512_srli_epi16(tile.value, 4);
  return {_mm512_shuffle_epi8(table.value, _mm512_and_si512(shifted, _mm512_set1_epi8(15)))};
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
