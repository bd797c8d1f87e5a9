// The loops of limits/table.h, in the same vectors as the kernels.
//
// The multiply loops keep a register tile like those of the ISA's kernels and take their operands
// from the first-level cache (a matrix unit from its own registers), so each round is the inner
// loop of a matrix product that never waits for memory, unpacks nothing and scales nothing.
#pragma once

#include "formats/types.h"
#include "limits/table.h"
#ifdef PYTHIA_RT_HALVES
#include "kernels/linear_halves.inl"
#endif

namespace pythia_rt::PYTHIA_RT_ISA {

// Asks for memory kAhead bytes ahead: the hardware's own prefetching stops at the ends of pages.
template <int kAhead, int kLocality>  // 3: into every cache, 2: from the second level on
inline float read(const float* values, int64_t count) {
  constexpr int kVectors = 8;
  constexpr int64_t kFloats = kAhead / sizeof(float);
  Vec sums[kVectors];
  for (Vec& sum : sums) sum = zero();
  for (int64_t i = 0; i < count; i += kVectors * 16) {
    for (int v = 0; v < kVectors; ++v) {
      __builtin_prefetch(values + i + kFloats + 16 * v, 0, kLocality);
      sums[v] = sums[v] + load(values + i + 16 * v);
    }
  }
  for (int v = 1; v < kVectors; ++v) sums[0] = sums[0] + sums[v];
  return reduce_add(sums[0]);
}

// The compiler may not know that a pointer is the same as in the round before: else it would
// multiply once and add the product every time.
template <typename T>
inline void forget(T*& pointer) {
  asm volatile("" : "+r"(pointer));
}

#ifdef PYTHIA_RT_MATRIX_UNIT

constexpr int64_t kByteOperations = int64_t{2} * 4 * 16 * 16 * 64;

inline float multiply_bytes(const uint8_t* operands, int64_t rounds) {
  alignas(64) int32_t out[4 * 16 * 16] = {};
  unit_begin();
  unit_accumulate(reinterpret_cast<const int8_t*>(operands), operands + 1024, rounds, out);
  unit_end();
  return static_cast<float>(out[0]);
}

#elif defined(PYTHIA_RT_HALVES)

// The inner loop of linear_halves.inl without its scales: kTiles products are added before they
// become 32 bits.
template <int kTilesAtOnce>
struct NarrowBytes {
  static constexpr int kTiles = kTilesAtOnce;
  struct Weights {
    HalfTile tiles[kTiles];
  };
  static Weights load(const uint8_t* p) {
    Weights weights;
    for (int t = 0; t < kTiles; ++t) weights.tiles[t] = load_half_tile(p + 64 * t);
    return weights;
  }
  static HalfInt dot(HalfInt sum, const Weights& weights, const int8_t* codes,
                     const HalfConstants& constants) {
    return half_narrow_dot(sum, weights.tiles, codes, constants);
  }
};
struct WideBytes {
  static constexpr int kTiles = 1;
  static HalfWide load(const uint8_t* p) { return half_wide(load_half_tile(p)); }
  static HalfInt dot(HalfInt sum, HalfWide weights, const int8_t* codes,
                     const HalfConstants& constants) {
    return half_wide_dot(sum, weights, codes, constants);
  }
};
template <typename Type>  // a quantised format
constexpr auto half_bytes() {
  if constexpr (Type::kSquareScales) {
    return NarrowBytes<NarrowHalf<Type::kBits>::kTiles>();
  } else {
    return WideBytes();
  }
}

template <typename Bytes>
constexpr int64_t kByteOperations = int64_t{2} * 8 * 4 * kHalves * Bytes::kTiles * kHalfRows;

template <typename Bytes>
inline float multiply_bytes(const uint8_t* operands, int64_t rounds) {
  const auto* codes = reinterpret_cast<const int8_t*>(operands + 1024);
  const HalfConstants constants = half_constants();
  float total = 0;
  while (rounds > 0) {
    // Short enough that no sum leaves 24 bits: at most 4 tiles a round of 4 * 63 * 63 each.
    const int64_t count = rounds < 256 ? rounds : 256;
    HalfInt sums[kHalfRows][kHalves];
    for (auto& halves : sums) {
      for (HalfInt& sum : halves) sum = half_int_zero();
    }
    for (int64_t round = 0; round < count; ++round) {
      forget(operands);
      forget(codes);
      decltype(Bytes::load(operands)) weights[kHalves];
      for (int h = 0; h < kHalves; ++h) weights[h] = Bytes::load(operands + 32 * h);
      for (int r = 0; r < kHalfRows; ++r) {
        for (int h = 0; h < kHalves; ++h) {
          sums[r][h] = Bytes::dot(sums[r][h], weights[h], codes + 64 * r, constants);
          half_pin(sums[r][h]);
        }
      }
    }
    alignas(32) float lanes[8];
    for (const auto& halves : sums) {
      for (const HalfInt& sum : halves) {
        half_store(lanes, half_to_float(sum));
        total += lanes[0];
      }
    }
    rounds -= count;
  }
  return total;
}

#elif defined(PYTHIA_RT_PANEL)

// The inner loop of linear_panel.inl without its scales.
using Panel = PYTHIA_RT_PANEL;
constexpr int64_t kByteOperations = int64_t{2} * Panel::kRows * 16 * Panel::kColumns;

inline float multiply_bytes(const uint8_t* operands, int64_t rounds) {
  const auto* codes = reinterpret_cast<const int8_t*>(operands + 1024);
  float total = 0;
  while (rounds > 0) {
    // Short enough that no sum leaves 24 bits: at most 16 * 63 * 63 a round.
    const int64_t count = rounds < 256 ? rounds : 256;
    Panel::Dots<Panel::kRows> dots;
    Panel::clear(dots);
    for (int64_t round = 0; round < count; ++round) {
      forget(operands);
      forget(codes);
      Panel::add(dots, operands, codes, 64);
    }
    const float scales[Panel::kRows] = {1};
    alignas(64) float sums[16 * Panel::kRows] = {};
    Panel::scale(dots, broadcast(1.0f), scales, 1, sums);
    total += reduce_add(Panel::row(sums, 0));
    rounds -= count;
  }
  return total;
}

#else

// Where a vector takes two of sixteen registers, a fourth sum of integers would leave them.
constexpr int kByteTile = kTokenTile > 4 ? kTokenTile : 3;
constexpr int64_t kByteOperations = int64_t{2} * kRowTile * kByteTile * 64;

inline float multiply_bytes(const uint8_t* operands, int64_t rounds) {
  const auto* codes = reinterpret_cast<const int8_t*>(operands + 1024);
  float total = 0;
  while (rounds > 0) {
    // Short enough that no sum leaves 24 bits: 4 * 63 * 63 a round.
    const int64_t count = rounds < 1024 ? rounds : 1024;
    IntVec sums[kRowTile][kByteTile];
    for (auto& row : sums) {
      for (IntVec& sum : row) sum = int_zero();
    }
    for (int64_t round = 0; round < count; ++round) {
      forget(operands);
      forget(codes);
      for (int b = 0; b < kRowTile; ++b) {
        const Tile tile = load_tile(operands + 64 * b);
        for (int r = 0; r < kByteTile; ++r) {
          sums[b][r] = narrow_dot(sums[b][r], tile, codes + 64 * r);
        }
      }
    }
    Vec sum = zero();
    for (auto& row : sums) {
      for (const IntVec& lanes : row) sum = sum + to_float(lanes);
    }
    total += reduce_add(sum);
    rounds -= count;
  }
  return total;
}

#endif

constexpr int64_t kFloatOperations = int64_t{2} * kRowTile * kTokenTile * 16;

inline float multiply_floats(const uint8_t* operands, int64_t rounds) {
  const auto* weights = reinterpret_cast<const float*>(operands);
  const auto* values = reinterpret_cast<const float*>(operands + 1024);
  Vec sums[kRowTile][kTokenTile];
  for (auto& row : sums) {
    for (Vec& sum : row) sum = zero();
  }
  for (int64_t round = 0; round < rounds; ++round) {
    forget(weights);
    forget(values);
    for (int b = 0; b < kRowTile; ++b) {
      const Vec weight = load(weights + 16 * b);
      for (int r = 0; r < kTokenTile; ++r) {
        sums[b][r] = fma(weight, broadcast(values[16 * r]), sums[b][r]);
      }
    }
  }
  Vec sum = zero();
  for (auto& row : sums) {
    for (const Vec& lanes : row) sum = sum + lanes;
  }
  return reduce_add(sum);
}

template <float (*kLoop)(const uint8_t*, int64_t)>
inline float multiply(const uint8_t* operands, int64_t rounds) {
  const float sum = kLoop(operands, rounds);
  leave_vectors();
  return sum;
}

template <int kAhead, int kLocality>
inline float read_all(const float* values, int64_t count) {
  const float sum = read<kAhead, kLocality>(values, count);
  leave_vectors();
  return sum;
}

template <typename Type>
constexpr MultiplyLoop bytes_of() {
  if constexpr (!Type::kQuantised) {
    return {nullptr, 0};
  } else {
#ifdef PYTHIA_RT_HALVES
    using Bytes = decltype(half_bytes<Type>());
    return {multiply<multiply_bytes<Bytes>>, kByteOperations<Bytes>};
#else
    return {multiply<multiply_bytes>, kByteOperations};
#endif
  }
}

extern const LimitTable kLimits;
const LimitTable kLimits = {PYTHIA_RT_ISA_NAME,
                            {read_all<4096, 3>, read_all<8192, 2>},
                            {multiply<multiply_floats>, kFloatOperations},
                            {
#define PYTHIA_RT_FORMAT(type, name) bytes_of<type>(),
#include "formats/formats.inc"
#undef PYTHIA_RT_FORMAT
                            }};

}  // namespace pythia_rt::PYTHIA_RT_ISA
