// CUDA's functions of one thread, in C++.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "base/half.h"
#include "emulator/warp.h"

namespace pythia_rt::cuda {

inline void copy_async_commit() { emulator::commit_copies(); }
template <int kPending>
void copy_async_wait() {
  emulator::finish_copies(kPending);
}

inline float half_to_float(uint16_t bits) { return float_from_half(bits); }
inline uint16_t float_to_half(float x) { return half_from_float(x); }
inline float bfloat_to_float(uint16_t bits) { return float_from_bfloat(bits); }

}  // namespace pythia_rt::cuda

using std::max;
using std::min;

inline float __int_as_float(int bits) {
  return pythia_rt::float_from_bits(static_cast<uint32_t>(bits));
}
inline float __uint_as_float(unsigned bits) { return pythia_rt::float_from_bits(bits); }
inline int __float_as_int(float x) { return static_cast<int>(pythia_rt::float_bits(x)); }
inline unsigned __float_as_uint(float x) { return pythia_rt::float_bits(x); }

// To the nearest integer, ties to even; what does not fit becomes the nearest that does, NaN zero.
inline int __float2int_rn(float x) {
  if (x != x) return 0;
  if (x >= 2147483648.0f) return INT32_MAX;
  if (x < -2147483648.0f) return INT32_MIN;
  return static_cast<int>(rintf(x));
}
inline float __int2float_rn(int x) { return static_cast<float>(x); }

template <typename T>
T __ldg(const T* p) {
  return *p;
}

// sum + the products of four bytes each, wrapping.
inline int __dp4a(int a, int b, int sum) {
  int products = 0;
  for (int i = 0; i < 4; ++i) {
    products += static_cast<int8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
  }
  return static_cast<int>(static_cast<unsigned>(sum) + static_cast<unsigned>(products));
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned sum) {
  for (int i = 0; i < 4; ++i) sum += (a >> 8 * i & 255u) * (b >> 8 * i & 255u);
  return sum;
}

// Four of the eight bytes of y and x, as the nibbles of `selectors` say; with its highest bit set
// a nibble asks for the byte's sign.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selectors) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned selector = selectors >> 4 * i & 15;
    auto byte = static_cast<uint8_t>(bytes >> 8 * (selector & 7));
    if (selector >= 8) byte = (byte & 0x80) != 0 ? 0xff : 0;
    result |= static_cast<unsigned>(byte) << 8 * i;
  }
  return result;
}

// Of four bytes each, wrapping.
inline unsigned __vadd4(unsigned a, unsigned b) {
  unsigned result = 0;
  for (int i = 0; i < 32; i += 8) result |= (((a >> i) + (b >> i)) & 255u) << i;
  return result;
}
inline unsigned __vsub4(unsigned a, unsigned b) {
  unsigned result = 0;
  for (int i = 0; i < 32; i += 8) result |= (((a >> i) - (b >> i)) & 255u) << i;
  return result;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }

inline void __threadfence() { pythia_rt::cuda::emulator::fence(); }
inline void __threadfence_block() { pythia_rt::cuda::emulator::fence(); }
