// The vector as an array: the specification that every other ISA must equal bit for bit.
// See simd.h for the interface. Written for clarity; compiled for every processor.
#pragma once

#include "simd/simd.h"

namespace pythia_rt::PYTHIA_RT_ISA {

inline void leave_vectors() {}

constexpr int kRowTile = 1;  // row blocks and tokens of one register tile of a matrix product
constexpr int kTokenTile = 4;

struct Vec {
  float lane[16];
};
struct IntVec {
  int32_t lane[16];
};
struct Tile {
  uint8_t byte[64];
};
struct Table {
  uint8_t entry[16];
};

// Builds a vector lane by lane.
template <typename Result, typename Function>
inline Result each_lane(Function function) {
  Result result;
  for (int i = 0; i < 16; ++i) result.lane[i] = function(i);
  return result;
}

inline float half_to_float(uint16_t half) {
  const int exponent = (half >> 10) & 31;
  const float mantissa = static_cast<float>(half & 1023);
  float magnitude = 0;
  if (exponent == 31) {
    magnitude = mantissa == 0 ? __builtin_inff() : __builtin_nanf("");
  } else if (exponent == 0) {
    magnitude = mantissa * 0x1p-24f;
  } else {
    magnitude = __builtin_ldexpf(mantissa + 1024.0f, exponent - 25);
  }
  return (half & 0x8000) != 0 ? -magnitude : magnitude;
}

inline uint16_t float_to_half(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const float magnitude = __builtin_fabsf(value);
  if (magnitude != magnitude) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00u);
  // The spacing of f16 around the value: rounding to it is rounding to an integer.
  int exponent = 0;
  __builtin_frexpf(magnitude, &exponent);                // magnitude = m * 2^exponent, 0.5 <= m < 1
  if (exponent < -13 || magnitude == 0) exponent = -13;  // subnormals: the spacing stays 2^-24
  const float steps = __builtin_rintf(__builtin_ldexpf(magnitude, 11 - exponent));
  // `steps` counts from 0 to 2^11; the encodings of f16 are in order, so counting up is adding.
  const int base = (exponent + 13) << 10;
  return static_cast<uint16_t>(sign | static_cast<uint16_t>(base + static_cast<int>(steps)));
}

inline Vec broadcast(float x) {
  return each_lane<Vec>([&](int) { return x; });
}
inline Vec zero() { return broadcast(0.0f); }
inline Vec load(const float* p) {
  return each_lane<Vec>([&](int i) { return p[i]; });
}
inline void store(float* p, Vec v) {
  for (int i = 0; i < 16; ++i) p[i] = v.lane[i];
}
inline Vec load_first(const float* p, int64_t n) {
  return each_lane<Vec>([&](int i) { return i < n ? p[i] : 0.0f; });
}
inline void store_first(float* p, Vec v, int64_t n) {
  for (int i = 0; i < 16 && i < n; ++i) p[i] = v.lane[i];
}
inline Vec load_f16(const uint16_t* p) {
  return each_lane<Vec>([&](int i) { return half_to_float(p[i]); });
}
inline void store_f16(uint16_t* p, Vec v) {
  for (int i = 0; i < 16; ++i) p[i] = float_to_half(v.lane[i]);
}
inline Vec load_bf16(const uint16_t* p) {
  return each_lane<Vec>([&](int i) {
    const uint32_t bits = static_cast<uint32_t>(p[i]) << 16;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
  });
}

inline Vec operator+(Vec a, Vec b) {
  return each_lane<Vec>([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline Vec operator-(Vec a, Vec b) {
  return each_lane<Vec>([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline Vec operator*(Vec a, Vec b) {
  return each_lane<Vec>([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline Vec operator/(Vec a, Vec b) {
  return each_lane<Vec>([&](int i) { return a.lane[i] / b.lane[i]; });
}
inline Vec min(Vec a, Vec b) {
  return each_lane<Vec>([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline Vec max(Vec a, Vec b) {
  return each_lane<Vec>([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline Vec fma(Vec a, Vec b, Vec c) {
  return each_lane<Vec>([&](int i) { return __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]); });
}
inline Vec abs(Vec a) {
  return each_lane<Vec>([&](int i) { return __builtin_fabsf(a.lane[i]); });
}
inline Vec select_less(Vec a, Vec b, Vec x, Vec y) {
  return each_lane<Vec>([&](int i) { return a.lane[i] < b.lane[i] ? x.lane[i] : y.lane[i]; });
}
inline Vec fill_after(Vec v, int64_t n, float x) {
  return each_lane<Vec>([&](int i) { return i < n ? v.lane[i] : x; });
}
inline Vec lookup(Vec v, IntVec index) {
  return each_lane<Vec>([&](int i) { return v.lane[index.lane[i]]; });
}
inline float reduce_add(Vec v) {
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) v.lane[i] = v.lane[i] + v.lane[i + width];
  }
  return v.lane[0];
}
inline float reduce_max(Vec v) {
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) {
      v.lane[i] = v.lane[i] > v.lane[i + width] ? v.lane[i] : v.lane[i + width];
    }
  }
  return v.lane[0];
}
inline float square_root(float x) { return __builtin_sqrtf(x); }

inline IntVec int_broadcast(int32_t x) {
  return each_lane<IntVec>([&](int) { return x; });
}
inline IntVec int_zero() { return int_broadcast(0); }
inline IntVec int_load(const int32_t* p) {
  return each_lane<IntVec>([&](int i) { return p[i]; });
}
inline void int_store(int32_t* p, IntVec v) {
  for (int i = 0; i < 16; ++i) p[i] = v.lane[i];
}
inline IntVec operator+(IntVec a, IntVec b) {
  return each_lane<IntVec>([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline IntVec add_if_less(IntVec v, Vec a, Vec b, int32_t n) {
  return each_lane<IntVec>(
      [&](int i) { return a.lane[i] < b.lane[i] ? v.lane[i] + n : v.lane[i]; });
}
inline Vec to_float(IntVec v) {
  return each_lane<Vec>([&](int i) { return static_cast<float>(v.lane[i]); });
}
inline IntVec round_to_int(Vec v) {
  return each_lane<IntVec>([&](int i) { return static_cast<int32_t>(__builtin_rintf(v.lane[i])); });
}
inline IntVec load_i8(const int8_t* p) {
  return each_lane<IntVec>([&](int i) { return p[i]; });
}
inline void store_i8(int8_t* p, IntVec v) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(v.lane[i]);
}
inline int32_t int_reduce_add(IntVec v) {
  int32_t sum = 0;
  for (int i = 0; i < 16; ++i) sum += v.lane[i];
  return sum;
}
inline Vec scale_by_power(Vec v, IntVec n) {
  return each_lane<Vec>([&](int i) {
    const uint32_t bits = static_cast<uint32_t>(n.lane[i] + 127) << 23;
    float power;
    __builtin_memcpy(&power, &bits, 4);
    return v.lane[i] * power;
  });
}

inline Tile load_tile(const uint8_t* p) {
  Tile tile;
  for (int i = 0; i < 64; ++i) tile.byte[i] = p[i];
  return tile;
}
inline void store_tile(uint8_t* p, Tile tile) {
  for (int i = 0; i < 64; ++i) p[i] = tile.byte[i];
}
inline Tile subtract_offset(Tile tile, uint8_t offset) {
  for (uint8_t& byte : tile.byte) byte = static_cast<uint8_t>(byte - offset);
  return tile;
}
inline IntVec dot_with_offset(IntVec acc, Tile tile, const int8_t* a, int offset) {
  for (int i = 0; i < 64; ++i) acc.lane[i / 4] += (tile.byte[i] - offset) * a[i % 4];
  return acc;
}
inline IntVec wide_begin(int32_t) { return int_zero(); }
inline void pin(IntVec&) {}
inline IntVec narrow_begin(int32_t sum) { return int_broadcast(-sum); }
inline IntVec wide_dot(IntVec acc, Tile tile, const int8_t* a) {
  return dot_with_offset(acc, tile, a, 128);
}
inline IntVec narrow_dot(IntVec acc, Tile tile, const int8_t* a) {
  return dot_with_offset(acc, tile, a, 0);
}
inline Tile low_codes(Tile tile) {
  for (uint8_t& byte : tile.byte) byte = byte & 15;
  return tile;
}
inline Tile high_codes(Tile tile) {
  for (uint8_t& byte : tile.byte) byte = byte >> 4;
  return tile;
}
inline Tile shift_left_4(Tile tile) {
  for (uint8_t& byte : tile.byte) byte = static_cast<uint8_t>(byte << 4);
  return tile;
}
template <int n>
inline Tile shift_right(Tile tile) {
  for (uint8_t& byte : tile.byte) byte = static_cast<uint8_t>(byte >> n);
  return tile;
}
inline Tile merge_bits(Tile tile, Tile bits, uint8_t mask) {
  for (int i = 0; i < 64; ++i) {
    tile.byte[i] = static_cast<uint8_t>(tile.byte[i] | (bits.byte[i] & mask));
  }
  return tile;
}
inline Table load_table(const uint8_t* p) {
  Table table;
  for (int i = 0; i < 16; ++i) table.entry[i] = p[i];
  return table;
}
inline Tile low_nibbles(Tile tile, Table table) {
  for (int i = 0; i < 64; ++i) tile.byte[i] = table.entry[tile.byte[i] & 15];
  return tile;
}
inline Tile high_nibbles(Tile tile, Table table) {
  for (int i = 0; i < 64; ++i) tile.byte[i] = table.entry[tile.byte[i] >> 4];
  return tile;
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
