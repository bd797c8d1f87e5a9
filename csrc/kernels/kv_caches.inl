// The formats of the KV cache as the attention sees them (formats/kv_formats.inc): 16 values into
// codes and back, and how scales enter its sums.
#pragma once

#include "kernels/table.h"

namespace pythia_rt::PYTHIA_RT_ISA {

constexpr int64_t kv_groups(int64_t head_dim) { return (head_dim + kKvGroup - 1) / kKvGroup; }

// Where the scales of a tile of 16 positions begin, in a group of the head.
inline int64_t scale_index(int64_t tile, int64_t group, int64_t head_dim) {
  return (tile * kv_groups(head_dim) + group) * 16;
}
inline float scale_value(uint16_t scale) {
  const uint32_t bits = static_cast<uint32_t>(scale) << 16;
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

struct HalfCache : KvCodes<KvFormat::f16> {
  static Vec load_codes(const Code* p) { return load_f16(p); }
  static uint16_t store_codes(Code* p, Vec v) {
    store_f16(p, v);
    return 0;  // no scale
  }
};

struct FloatCache : KvCodes<KvFormat::f32> {
  static Vec load_codes(const Code* p) { return load(p); }
  static uint16_t store_codes(Code* p, Vec v) {
    store(p, v);
    return 0;  // no scale
  }
};

// value = code * scale, |code| <= 127. The scale is a bf16, whose range is that of f32, rounded up
// so that the largest value still has a code. Its 8 bits and the code's 7 make an exact product.
struct ByteCache : KvCodes<KvFormat::q8> {
  static Vec load_codes(const Code* p) { return to_float(load_i8(p)); }
  static uint16_t store_codes(Code* p, Vec v) {
    const float smallest = reduce_max(abs(v)) / 127.0f;
    uint32_t bits;
    __builtin_memcpy(&bits, &smallest, 4);
    const auto scale = static_cast<uint16_t>((bits + 0xffffu) >> 16);
    const float divisor = scale_value(scale);
    // Zeros, and what is so small that the quotient was none, have the scale 0 and codes 0.
    store_i8(p, round_to_int(v / broadcast(divisor == 0.0f ? 1.0f : divisor)));
    return scale;
  }
};

}  // namespace pythia_rt::PYTHIA_RT_ISA
