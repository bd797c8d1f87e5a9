// What CUDA's functions of a warp or a block, and the instructions of nvcc_port.cuh, do in the
// emulator. The macros of port.h add the place of the call.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "emulator/scheduler.h"
#include "emulator/vector_types.h"

namespace pythia_rt::cuda::emulator {

template <typename T>
T shuffle(Collective purpose, const char* site, unsigned mask, T value, int source,
          int width = 32) {
  static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_arithmetic_v<T>,
                "a shuffle takes a number");
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

inline unsigned ballot(const char* site, unsigned mask, int predicate) {
  const uint64_t value = predicate != 0 ? 1 : 0;
  return static_cast<unsigned>(collective(Collective::ballot, mask, value, 0, 32, site));
}
inline int vote_any(const char* site, unsigned mask, int predicate) {
  return ballot(site, mask, predicate) != 0 ? 1 : 0;
}
inline int vote_all(const char* site, unsigned mask, int predicate) {
  return ballot(site, mask, predicate == 0 ? 1 : 0) == 0 ? 1 : 0;
}

template <typename T>
T reduce(Collective purpose, const char* site, unsigned mask, T value) {
  static_assert(sizeof(T) == 4 && std::is_integral_v<T>, "a reduction takes 32-bit integers");
  // Unsigned integers are ordered as signed ones are that are smaller by 2^31.
  const bool is_compared = purpose == Collective::reduce_max || purpose == Collective::reduce_min;
  const uint32_t shift = is_compared && std::is_unsigned_v<T> ? 0x80000000u : 0;
  const uint32_t bits = static_cast<uint32_t>(value) ^ shift;
  return static_cast<T>(static_cast<uint32_t>(collective(purpose, mask, bits, 0, 32, site)) ^
                        shift);
}

inline void multiply(const char* site, int (&d)[4], const unsigned (&a)[4],
                     const unsigned (&b)[2]) {
  MmaFragment fragment = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, {d[0], d[1], d[2], d[3]}};
  collective(Collective::mma_m16n8k32, ~0u, 0, 0, 32, site, &fragment);
  std::memcpy(d, fragment.d, sizeof fragment.d);
}

// Lands now or when it is waited for: both must give the same result.
inline void begin_copy(const char* site, void* to, const void* from) {
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0) {
    fail("an asynchronous copy of 16 bytes that does not begin at a multiple of them", site);
  }
  if (land_now()) {
    *static_cast<uint4*>(to) = *static_cast<const uint4*>(from);
  } else {
    push_copy(to, from, site);
  }
}

// Groups of copies are counted as nvcc_port.cuh's are; here, so that the sanitizers of the kernels
// see what lands.
inline void finish_copies(int pending) {
  void* to;
  const void* from;
  while (pop_copy(pending, &to, &from)) {
    *static_cast<uint4*>(to) = *static_cast<const uint4*>(from);
  }
}

}  // namespace pythia_rt::cuda::emulator
