// The vector in four 128-bit registers: AArch64 NEON, dot product. See simd.h for the interface.
#pragma once

#include <arm_neon.h>

#include "simd/simd.h"

namespace pythia_rt::PYTHIA_RT_ISA {

inline void leave_vectors() {}

constexpr int kRowTile = 1;
constexpr int kTokenTile = 4;  // 16 integer accumulators of 32 registers; the float ones may spill

// Quarter q holds lanes (of a tile: rows) 4q .. 4q + 3.
struct Vec {
  float32x4_t quarter[4];
};
struct IntVec {
  int32x4_t quarter[4];
};
struct Tile {
  uint8x16_t quarter[4];
};
struct Table {
  uint8x16_t value;
};

// Builds a vector or a tile quarter by quarter; the loop is short enough to always be unrolled.
template <typename Result, typename Function>
inline Result each_quarter(Function function) {
  return {{function(0), function(1), function(2), function(3)}};
}

inline Vec broadcast(float x) {
  return each_quarter<Vec>([&](int) { return vdupq_n_f32(x); });
}
inline Vec zero() { return broadcast(0.0f); }
inline Vec load(const float* p) {
  return each_quarter<Vec>([&](int q) { return vld1q_f32(p + 4 * q); });
}
inline void store(float* p, Vec v) {
  for (int q = 0; q < 4; ++q) vst1q_f32(p + 4 * q, v.quarter[q]);
}
inline Vec load_first(const float* p, int64_t n) {
  float lanes[16] = {};
  for (int i = 0; i < 16 && i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
inline void store_first(float* p, Vec v, int64_t n) {
  float lanes[16];
  store(lanes, v);
  for (int i = 0; i < 16 && i < n; ++i) p[i] = lanes[i];
}
inline Vec load_f16(const uint16_t* p) {
  return each_quarter<Vec>(
      [&](int q) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * q))); });
}
inline void store_f16(uint16_t* p, Vec v) {
  for (int q = 0; q < 4; ++q) {
    vst1_u16(p + 4 * q, vreinterpret_u16_f16(vcvt_f16_f32(v.quarter[q])));
  }
}
inline Vec load_bf16(const uint16_t* p) {
  return each_quarter<Vec>([&](int q) {
    return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(p + 4 * q)), 16));
  });
}

inline Vec operator+(Vec a, Vec b) {
  return each_quarter<Vec>([&](int q) { return vaddq_f32(a.quarter[q], b.quarter[q]); });
}
inline Vec operator-(Vec a, Vec b) {
  return each_quarter<Vec>([&](int q) { return vsubq_f32(a.quarter[q], b.quarter[q]); });
}
inline Vec operator*(Vec a, Vec b) {
  return each_quarter<Vec>([&](int q) { return vmulq_f32(a.quarter[q], b.quarter[q]); });
}
inline Vec operator/(Vec a, Vec b) {
  return each_quarter<Vec>([&](int q) { return vdivq_f32(a.quarter[q], b.quarter[q]); });
}
inline Vec fma(Vec a, Vec b, Vec c) {
  return each_quarter<Vec>(
      [&](int q) { return vfmaq_f32(c.quarter[q], a.quarter[q], b.quarter[q]); });
}
inline Vec abs(Vec a) {
  return each_quarter<Vec>([&](int q) { return vabsq_f32(a.quarter[q]); });
}
inline Vec select_less(Vec a, Vec b, Vec x, Vec y) {
  return each_quarter<Vec>([&](int q) {
    return vbslq_f32(vcltq_f32(a.quarter[q], b.quarter[q]), x.quarter[q], y.quarter[q]);
  });
}
// Not vminq and vmaxq: those order the two zeros, a < b ? a : b does not.
inline Vec min(Vec a, Vec b) { return select_less(a, b, a, b); }
inline Vec max(Vec a, Vec b) { return select_less(b, a, a, b); }
inline Vec fill_after(Vec v, int64_t n, float x) {
  const int32_t count = n >= 16 ? 16 : n <= 0 ? 0 : static_cast<int32_t>(n);
  const int32_t first_four[4] = {0, 1, 2, 3};
  const int32x4_t index = vld1q_s32(first_four);
  return each_quarter<Vec>([&](int q) {
    const uint32x4_t kept = vcltq_s32(index, vdupq_n_s32(count - 4 * q));
    return vbslq_f32(kept, v.quarter[q], vdupq_n_f32(x));
  });
}
// The table instruction looks up bytes: those of lane i are 4 i to 4 i + 3.
inline Vec lookup(Vec v, IntVec index) {
  const uint8x16x4_t bytes = {
      {vreinterpretq_u8_f32(v.quarter[0]), vreinterpretq_u8_f32(v.quarter[1]),
       vreinterpretq_u8_f32(v.quarter[2]), vreinterpretq_u8_f32(v.quarter[3])}};
  return each_quarter<Vec>([&](int q) {
    const int32x4_t first = vmulq_n_s32(index.quarter[q], 0x04040404);
    const int32x4_t all = vaddq_s32(first, vdupq_n_s32(0x03020100));
    return vreinterpretq_f32_u8(vqtbl4q_u8(bytes, vreinterpretq_u8_s32(all)));
  });
}
inline float reduce_add(Vec v) {
  const float32x4_t sum4 =
      vaddq_f32(vaddq_f32(v.quarter[0], v.quarter[2]), vaddq_f32(v.quarter[1], v.quarter[3]));
  const float32x2_t sum2 = vadd_f32(vget_low_f32(sum4), vget_high_f32(sum4));
  return vget_lane_f32(sum2, 0) + vget_lane_f32(sum2, 1);
}
inline float reduce_max(Vec v) {
  const auto larger4 = [](float32x4_t a, float32x4_t b) {
    return vbslq_f32(vcgtq_f32(a, b), a, b);
  };
  const float32x4_t max4 =
      larger4(larger4(v.quarter[0], v.quarter[2]), larger4(v.quarter[1], v.quarter[3]));
  const float32x2_t low = vget_low_f32(max4), high = vget_high_f32(max4);
  const float32x2_t max2 = vbsl_f32(vcgt_f32(low, high), low, high);
  const float first = vget_lane_f32(max2, 0), second = vget_lane_f32(max2, 1);
  return first > second ? first : second;
}
inline float square_root(float x) { return vget_lane_f32(vsqrt_f32(vdup_n_f32(x)), 0); }

inline IntVec int_broadcast(int32_t x) {
  return each_quarter<IntVec>([&](int) { return vdupq_n_s32(x); });
}
inline IntVec int_zero() { return int_broadcast(0); }
inline IntVec int_load(const int32_t* p) {
  return each_quarter<IntVec>([&](int q) { return vld1q_s32(p + 4 * q); });
}
inline void int_store(int32_t* p, IntVec v) {
  for (int q = 0; q < 4; ++q) vst1q_s32(p + 4 * q, v.quarter[q]);
}
inline IntVec operator+(IntVec a, IntVec b) {
  return each_quarter<IntVec>([&](int q) { return vaddq_s32(a.quarter[q], b.quarter[q]); });
}
inline IntVec add_if_less(IntVec v, Vec a, Vec b, int32_t n) {
  return each_quarter<IntVec>([&](int q) {
    const uint32x4_t less = vcltq_f32(a.quarter[q], b.quarter[q]);
    return vaddq_s32(v.quarter[q], vandq_s32(vreinterpretq_s32_u32(less), vdupq_n_s32(n)));
  });
}
inline Vec to_float(IntVec v) {
  return each_quarter<Vec>([&](int q) { return vcvtq_f32_s32(v.quarter[q]); });
}
inline IntVec round_to_int(Vec v) {
  return each_quarter<IntVec>([&](int q) { return vcvtnq_s32_f32(v.quarter[q]); });
}
inline IntVec load_i8(const int8_t* p) {
  const int8x16_t bytes = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
  return {{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)),
           vmovl_s16(vget_low_s16(high)), vmovl_s16(vget_high_s16(high))}};
}
inline void store_i8(int8_t* p, IntVec v) {
  const int16x8_t low = vcombine_s16(vmovn_s32(v.quarter[0]), vmovn_s32(v.quarter[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(v.quarter[2]), vmovn_s32(v.quarter[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
inline int32_t int_reduce_add(IntVec v) {
  return vaddvq_s32(
      vaddq_s32(vaddq_s32(v.quarter[0], v.quarter[2]), vaddq_s32(v.quarter[1], v.quarter[3])));
}
inline Vec scale_by_power(Vec v, IntVec n) {
  return each_quarter<Vec>([&](int q) {
    const int32x4_t biased = vaddq_s32(n.quarter[q], vdupq_n_s32(127));
    return vmulq_f32(v.quarter[q], vreinterpretq_f32_s32(vshlq_n_s32(biased, 23)));
  });
}

// The dot product of base AArch64 multiplies signed bytes only. Narrow weights fit them as they
// are stored, and the offset is taken back at the start; wide ones are made signed first.
inline Tile load_tile(const uint8_t* p) {
  return each_quarter<Tile>([&](int q) { return vld1q_u8(p + 16 * q); });
}
inline void store_tile(uint8_t* p, Tile tile) {
  for (int q = 0; q < 4; ++q) vst1q_u8(p + 16 * q, tile.quarter[q]);
}
inline Tile subtract_offset(Tile tile, uint8_t offset) {
  return each_quarter<Tile>([&](int q) { return vsubq_u8(tile.quarter[q], vdupq_n_u8(offset)); });
}
inline int8x16_t broadcast_four(const int8_t* a) {
  int32_t four;
  __builtin_memcpy(&four, a, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(four));
}
inline IntVec wide_begin(int32_t) { return int_zero(); }
inline IntVec wide_dot(IntVec acc, Tile tile, const int8_t* a) {
  const int8x16_t four = broadcast_four(a);
  return each_quarter<IntVec>([&](int q) {
    const uint8x16_t weights = veorq_u8(tile.quarter[q], vdupq_n_u8(128));
    return vdotq_s32(acc.quarter[q], vreinterpretq_s8_u8(weights), four);
  });
}
inline IntVec narrow_begin(int32_t sum) { return int_broadcast(-sum); }
inline IntVec narrow_dot(IntVec acc, Tile tile, const int8_t* a) {
  const int8x16_t four = broadcast_four(a);
  return each_quarter<IntVec>(
      [&](int q) { return vdotq_s32(acc.quarter[q], vreinterpretq_s8_u8(tile.quarter[q]), four); });
}

// GCC keeps a sum in one register, and loads nothing before this place that is needed after it:
// else it fills the registers with what comes later and puts the sums into the stack. Clang does
// better by itself.
#ifdef __clang__
inline void pin(int32x4_t&) {}
#else
inline void pin(int32x4_t& sum) { asm volatile("" : "+w"(sum)); }
#endif
inline void pin(IntVec& sum) {
  for (int32x4_t& quarter : sum.quarter) pin(quarter);
}
// The compiler fetches from memory what it needs and puts it back: else it keeps all of it, which
// is to say in the stack.
inline void refetch(float*& place) { asm volatile("" : "+r"(place) : : "memory"); }

// Products of many rows (simd.h): tiles as they are, times activations that are lanes of a
// register.
#define PYTHIA_RT_PANEL DotPanel
struct DotPanel {
  static constexpr int kRows = 4;  // 16 sums, 4 rows and 4 quarters of a tile of 32 registers
  static constexpr int kRowStep = 1;
  static constexpr int kColumns = 16;

  template <int kCount>
  struct Dots {
    int32x4_t quarter[4][kCount];
  };

  static void store(uint8_t* p, Tile first, Tile second) {
    store_tile(p, first);
    store_tile(p + 64, second);
  }

  // Always inline: else the sums are in memory.
  template <int kCount>
  [[gnu::always_inline]] static void clear(Dots<kCount>& dots) {
    for (auto& rows : dots.quarter) {
      for (int32x4_t& dot : rows) dot = vdupq_n_s32(0);
    }
  }

  template <int kCount>
  [[gnu::always_inline]] static void add(Dots<kCount>& dots, const uint8_t* panel,
                                         const int8_t* codes, int64_t stride) {
    int8x16_t rows[kCount];
    for (int r = 0; r < kCount; ++r) rows[r] = vld1q_s8(codes + r * stride);
    add_tile<0>(dots, panel, rows);
    add_tile<1>(dots, panel + 64, rows);
    add_tile<2>(dots, panel + 128, rows);
    add_tile<3>(dots, panel + 192, rows);
  }
  template <int kLane, int kCount>
  [[gnu::always_inline]] static void add_tile(Dots<kCount>& dots, const uint8_t* tile,
                                              const int8x16_t (&rows)[kCount]) {
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      const int8x16_t weights = vreinterpretq_s8_u8(vld1q_u8(tile + 16 * q));
      for (int r = 0; r < kCount; ++r) {
        dots.quarter[q][r] = vdotq_laneq_s32(dots.quarter[q][r], weights, rows[r], kLane);
      }
    }
    for (auto& quarter : dots.quarter) {
      for (int32x4_t& dot : quarter) pin(dot);
    }
  }

  // The sums are rows of 16.
  template <int kCount>
  [[gnu::always_inline]] static void scale(const Dots<kCount>& dots, Vec weight_scale,
                                           const float* scales, int64_t stride, float* sums) {
    float of_rows[kCount];
    for (int r = 0; r < kCount; ++r) of_rows[r] = scales[r * stride];
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q, sums += 4) {
      refetch(sums);
      for (int r = 0; r < kCount; ++r) {
        const float32x4_t factor = vmulq_n_f32(weight_scale.quarter[q], of_rows[r]);
        float* sum = sums + 16 * r;
        vst1q_f32(sum, vfmaq_f32(vld1q_f32(sum), vcvtq_f32_s32(dots.quarter[q][r]), factor));
      }
    }
  }
  static Vec row(const float* sums, int row) { return load(sums + 16 * row); }
};

inline Tile low_codes(Tile tile) {
  return each_quarter<Tile>([&](int q) { return vandq_u8(tile.quarter[q], vdupq_n_u8(15)); });
}
inline Tile high_codes(Tile tile) {
  return each_quarter<Tile>([&](int q) { return vshrq_n_u8(tile.quarter[q], 4); });
}
inline Tile shift_left_4(Tile tile) {
  return each_quarter<Tile>([&](int q) { return vshlq_n_u8(tile.quarter[q], 4); });
}
template <int n>
inline Tile shift_right(Tile tile) {
  return each_quarter<Tile>([&](int q) { return vshrq_n_u8(tile.quarter[q], n); });
}
inline Tile merge_bits(Tile tile, Tile bits, uint8_t mask) {
  return each_quarter<Tile>([&](int q) {
    return vorrq_u8(tile.quarter[q], vandq_u8(bits.quarter[q], vdupq_n_u8(mask)));
  });
}

inline Table load_table(const uint8_t* p) { return {vld1q_u8(p)}; }
inline Tile low_nibbles(Tile tile, Table table) {
  return each_quarter<Tile>(
      [&](int q) { return vqtbl1q_u8(table.value, vandq_u8(tile.quarter[q], vdupq_n_u8(15))); });
}
inline Tile high_nibbles(Tile tile, Table table) {
  return each_quarter<Tile>(
      [&](int q) { return vqtbl1q_u8(table.value, vshrq_n_u8(tile.quarter[q], 4)); });
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
