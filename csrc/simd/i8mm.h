// AArch64 NEON with dot products plus the matrix product of bytes (FEAT_I8MM), which multiplies 2 x
// 8 signed bytes with 8 x 2 in one instruction: twice the products of a dot product.
#pragma once

#include "simd/neon.h"

#undef PYTHIA_RT_PANEL
#define PYTHIA_RT_PANEL PairPanel

namespace pythia_rt::PYTHIA_RT_ISA {

// Products of many rows (simd.h), by two rows and two outputs at a time. Of two neighbouring tiles,
// 4 columns of four outputs in a register, the panel holds 8 columns of two.
struct PairPanel {
  static constexpr int kRows = 6;  // 24 sums, 3 pairs of rows and 2 operands of 32 registers
  static constexpr int kRowStep = 2;
  static constexpr int kColumns = 8;
  static constexpr int kOutputPairs = 8;

  // Row 2 p and outputs 2 i, 2 i + 1; then row 2 p + 1 and the same outputs.
  template <int kCount>
  struct Dots {
    int32x4_t pair[kCount / 2][kOutputPairs];
  };

  static void store(uint8_t* p, Tile first, Tile second) {
    for (int q = 0; q < 4; ++q) {
      const uint32x4_t a = vreinterpretq_u32_u8(first.quarter[q]);
      const uint32x4_t b = vreinterpretq_u32_u8(second.quarter[q]);
      vst1q_u8(p + 32 * q, vreinterpretq_u8_u32(vzip1q_u32(a, b)));
      vst1q_u8(p + 32 * q + 16, vreinterpretq_u8_u32(vzip2q_u32(a, b)));
    }
  }

  // Always inline: else the sums are in memory.
  template <int kCount>
  [[gnu::always_inline]] static void clear(Dots<kCount>& dots) {
    for (auto& outputs : dots.pair) {
      for (int32x4_t& dot : outputs) dot = vdupq_n_s32(0);
    }
  }

  template <int kCount>
  [[gnu::always_inline]] static void add(Dots<kCount>& dots, const uint8_t* panel,
                                         const int8_t* codes, int64_t stride) {
    int8x16_t rows[kCount / 2];
    for (int p = 0; p < kCount / 2; ++p) {
      const int8_t* first = codes + 2 * p * stride;
      rows[p] = vcombine_s8(vld1_s8(first), vld1_s8(first + stride));
    }
#pragma GCC unroll 4
    for (int i = 0; i < kOutputPairs; i += 2) {
      const int8x16_t even = vreinterpretq_s8_u8(vld1q_u8(panel + 16 * i));
      const int8x16_t odd = vreinterpretq_s8_u8(vld1q_u8(panel + 16 * i + 16));
      for (int p = 0; p < kCount / 2; ++p) {
        dots.pair[p][i] = vmmlaq_s32(dots.pair[p][i], rows[p], even);
        dots.pair[p][i + 1] = vmmlaq_s32(dots.pair[p][i + 1], rows[p], odd);
      }
      for (int p = 0; p < kCount / 2; ++p) {
        pin(dots.pair[p][i]);
        pin(dots.pair[p][i + 1]);
      }
    }
  }

  // The sums have the order of the dots: [pair of rows][pair of outputs][4].
  template <int kCount>
  [[gnu::always_inline]] static void scale(const Dots<kCount>& dots, Vec weight_scale,
                                           const float* scales, int64_t stride, float* sums) {
    alignas(64) float of_outputs[16];
    pythia_rt::PYTHIA_RT_ISA::store(of_outputs, weight_scale);
    float32x4_t of_rows[kCount / 2];
    for (int p = 0; p < kCount / 2; ++p) {
      const float* first = scales + 2 * p * stride;
      of_rows[p] = vcombine_f32(vdup_n_f32(*first), vdup_n_f32(first[stride]));
    }
#pragma GCC unroll 8
    for (int i = 0; i < kOutputPairs; ++i, sums += 4) {
      refetch(sums);
      const float32x2_t two = vld1_f32(of_outputs + 2 * i);
      for (int p = 0; p < kCount / 2; ++p) {
        float* sum = sums + 4 * kOutputPairs * p;
        const float32x4_t factor = vmulq_f32(vcombine_f32(two, two), of_rows[p]);
        vst1q_f32(sum, vfmaq_f32(vld1q_f32(sum), vcvtq_f32_s32(dots.pair[p][i]), factor));
      }
    }
  }
  static Vec row(const float* sums, int row) {
    return each_quarter<Vec>([&](int q) {
      const float* outputs = sums + 4 * kOutputPairs * (row / 2) + 8 * q + 2 * (row % 2);
      return vcombine_f32(vld1_f32(outputs), vld1_f32(outputs + 4));
    });
  }
};

}  // namespace pythia_rt::PYTHIA_RT_ISA
