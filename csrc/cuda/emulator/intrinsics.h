// CUDA's device functions that kernels use, in C++.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/half.h"
#include "cuda/emulator/scheduler.h"
#include "cuda/emulator/vector_types.h"

namespace pythia_rt::cuda::emulator {

// The macros of port.h add the place of the call.
template <typename T>
T shuffle(Collective purpose, const char* site, unsigned mask, T value, int source,
          int width = 32) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = collective(purpose, mask, bits, source, width, site);
  T result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}
inline void sync_warp(const char* site, unsigned mask = ~0u) {
  collective(Collective::sync, mask, 0, 0, 32, site);
}
inline unsigned vote(const char* site, unsigned mask, int predicate) {
  const uint64_t value = predicate != 0 ? 1 : 0;
  return static_cast<unsigned>(collective(Collective::ballot, mask, value, 0, 32, site));
}

inline void multiply(const char* site, int (&d)[4], const unsigned (&a)[4],
                     const unsigned (&b)[2]) {
  MmaFragment fragment = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, {d[0], d[1], d[2], d[3]}};
  collective(Collective::mma_m16n8k32, ~0u, 0, 0, 32, site, &fragment);
  std::memcpy(d, fragment.d, sizeof fragment.d);
}

// Lands now or when it is waited for: both must give the same result.
inline void copy(const char* site, void* to, const void* from) {
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0) {
    fail("an asynchronous copy of 16 bytes that does not begin at a multiple of them", site);
  }
  if (land_now()) {
    *static_cast<uint4*>(to) = *static_cast<const uint4*>(from);
  } else {
    push_copy(to, from, site);
  }
}

}  // namespace pythia_rt::cuda::emulator

namespace pythia_rt::cuda {

inline void copy_async_commit() { emulator::commit_copies(); }
template <int kPending>
void copy_async_wait() {
  void* to;
  const void* from;
  while (emulator::pop_copy(kPending, &to, &from)) {
    *static_cast<uint4*>(to) = *static_cast<const uint4*>(from);
  }
}

inline float half_to_float(uint16_t bits) { return float_from_half(bits); }
inline uint16_t float_to_half(float x) { return half_from_float(x); }
inline float bfloat_to_float(uint16_t bits) { return float_from_bfloat(bits); }

}  // namespace pythia_rt::cuda

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
  return static_cast<int>(__builtin_rintf(x));
}
inline float __int2float_rn(int x) { return static_cast<float>(x); }

template <typename T>
T __ldg(const T* p) {
  return *p;
}
inline int __dp4a(int a, int b, int sum) {
  for (int i = 0; i < 4; ++i) {
    sum += static_cast<int8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
  }
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
inline unsigned __vsub4(unsigned a, unsigned b) {
  unsigned result = 0;
  for (int i = 0; i < 32; i += 8) result |= (((a >> i) - (b >> i)) & 255u) << i;
  return result;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline void __threadfence() { pythia_rt::cuda::emulator::fence(); }
