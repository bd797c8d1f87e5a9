// What the C++ that translate.py makes of PTX calls: registers as bits, memory with its checks, and
// the operations of PTX that C++ has no operator for. The rest is the emulator's.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "base/half.h"
#include "emulator/scheduler.h"

namespace ptx {

namespace emulator = pythia_rt::cuda::emulator;
using emulator::Collective;

// The low bytes of a register as a T.
template <class T, class Register>
inline T read(Register source) {
  if constexpr (std::is_same_v<T, bool>) {
    return source != 0;
  } else {
    static_assert(sizeof(T) <= sizeof(Register), "reads more than the register holds");
    T value;
    std::memcpy(&value, &source, sizeof value);
    return value;
  }
}

// Into a wider register integers are extended by their sign; others fill its low bytes.
template <class Register, class T>
inline void write(Register& target, T value) {
  if constexpr (std::is_same_v<Register, bool>) {
    target = value;
  } else if constexpr (sizeof(Register) == sizeof(T)) {
    std::memcpy(&target, &value, sizeof target);
  } else if constexpr (std::is_integral_v<T> && std::is_integral_v<Register>) {
    static_assert(sizeof(T) < sizeof(Register), "writes more than the register holds");
    target = static_cast<Register>(value);
  } else {
    static_assert(sizeof(T) < sizeof(Register), "writes more than the register holds");
    target = 0;
    std::memcpy(&target, &value, sizeof value);
  }
}

// --- memory ---

template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Vector {
  T of[kCount];
};
struct alignas(16) Bytes16 {
  unsigned char of[16];
};

template <class T>
inline uint64_t address_of(const T& object) {
  return reinterpret_cast<uintptr_t>(&object);
}

// The value at base + offset, which must be a multiple of its size.
template <class T>
inline T* at(uint64_t base, int64_t offset, const char* site) {
  const uint64_t address = base + static_cast<uint64_t>(offset);
  if (address % sizeof(T) != 0) emulator::fail("misaligned access", site);
  return reinterpret_cast<T*>(address);
}

struct SharedArray {
  const char* name;
  size_t bytes;
  size_t alignment;
};

// A kernel's shared memory. Addresses count from its first array.
template <size_t kArrays>
class Shared {
 public:
  explicit Shared(const SharedArray (&arrays)[kArrays]) : arrays_(arrays) {
    for (size_t i = 0; i < kArrays; ++i) {
      begin_[i] = static_cast<char*>(
          emulator::shared(arrays[i].bytes, arrays[i].alignment, arrays[i].name));
    }
  }

  uint32_t address(size_t array) const { return static_cast<uint32_t>(begin_[array] - begin_[0]); }
  uint64_t to_generic(uint64_t address) const { return origin() + address; }
  uint64_t from_generic(uint64_t address) const { return address - origin(); }

  // The value at base + offset, wholly inside one array.
  template <class T>
  T* at(uint64_t base, int64_t offset, const char* site) const {
    const auto address = static_cast<uint32_t>(base + static_cast<uint64_t>(offset));
    for (size_t i = 0; i < kArrays; ++i) {
      const uint32_t inside = address - this->address(i);
      if (inside < arrays_[i].bytes && inside + sizeof(T) <= arrays_[i].bytes) {
        return ptx::at<T>(to_generic(address), 0, site);
      }
    }
    emulator::fail("shared access out of bounds", site);
  }

 private:
  uint64_t origin() const { return reinterpret_cast<uintptr_t>(begin_[0]); }

  const SharedArray* arrays_;
  char* begin_[kArrays];
};

// --- integers ---

template <class T>
using Unsigned = std::make_unsigned_t<T>;

template <class T>
inline T high_product(T a, T b) {
  using Wide =
      std::conditional_t<sizeof(T) == 8,
                         std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>,
                         std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>>;
  return static_cast<T>(static_cast<Wide>(a) * static_cast<Wide>(b) >> (8 * sizeof(T)));
}

template <class T>
inline T quotient(T a, T b, const char* site) {
  if (b == 0) emulator::fail("division by zero", site);
  if constexpr (std::is_signed_v<T>) {
    if (b == -1) return static_cast<T>(Unsigned<T>{0} - static_cast<Unsigned<T>>(a));
  }
  return static_cast<T>(a / b);
}

template <class T>
inline T remainder(T a, T b, const char* site) {
  if (b == 0) emulator::fail("division by zero", site);
  if constexpr (std::is_signed_v<T>) {
    if (b == -1) return 0;
  }
  return static_cast<T>(a % b);
}

// PTX clamps distances at the width.
template <class T>
inline T shift_left(T a, uint32_t n) {
  return n >= 8 * sizeof(T) ? T{0} : static_cast<T>(a << n);
}
template <class T>
inline T shift_right(T a, uint32_t n) {
  if (n >= 8 * sizeof(T)) return static_cast<T>(std::is_signed_v<T> && a < T{0} ? -1 : 0);
  return static_cast<T>(a >> n);
}

inline uint32_t funnel_left(uint32_t low, uint32_t high, uint32_t n, bool wraps) {
  n = wraps ? n & 31 : n < 32 ? n : 32;
  const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
  return static_cast<uint32_t>(n == 32 ? low : both << n >> 32);
}
inline uint32_t funnel_right(uint32_t low, uint32_t high, uint32_t n, bool wraps) {
  n = wraps ? n & 31 : n < 32 ? n : 32;
  return static_cast<uint32_t>((static_cast<uint64_t>(high) << 32 | low) >> n);
}

// `length` bits of `a` from `begin` on; beyond its width there are copies of its sign.
template <class T>
inline T extract(T a, uint32_t begin, uint32_t length) {
  constexpr uint32_t kWidth = 8 * sizeof(T);
  begin &= 0xff;
  length &= 0xff;
  if (length == 0) return 0;
  const T shifted = shift_right(a, begin);
  if (length >= kWidth) return shifted;
  const uint32_t last = begin + length - 1 < kWidth - 1 ? begin + length - 1 : kWidth - 1;
  const auto mask = static_cast<Unsigned<T>>((Unsigned<T>{1} << length) - 1);
  const auto bits = static_cast<Unsigned<T>>(static_cast<Unsigned<T>>(shifted) & mask);
  const bool negative = std::is_signed_v<T> && (static_cast<Unsigned<T>>(a) >> last & 1);
  return static_cast<T>(negative ? bits | static_cast<Unsigned<T>>(~mask) : bits);
}

// `b` with the lowest `length` bits of `a` in place of its own from `begin` on.
template <class T>
inline T insert(T a, T b, uint32_t begin, uint32_t length) {
  constexpr uint32_t kWidth = 8 * sizeof(T);
  begin &= 0xff;
  length &= 0xff;
  if (begin >= kWidth || length == 0) return b;
  const T ones = length >= kWidth ? static_cast<T>(~T{0}) : static_cast<T>((T{1} << length) - 1);
  const T mask = static_cast<T>(ones << begin);
  return static_cast<T>((b & ~mask) | (static_cast<T>(a << begin) & mask));
}

// Bit 4 a + 2 b + c of `table`, bit by bit.
inline uint32_t logic(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t result = 0;
  for (unsigned i = 0; i < 8; ++i) {
    if (table >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  }
  return result;
}

// Four of the eight bytes of b:a; bit 3 of a selector repeats the byte's sign instead.
inline uint32_t permute(uint32_t a, uint32_t b, uint32_t selectors) {
  const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
  uint32_t result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const uint32_t selector = selectors >> (4 * i);
    auto byte = static_cast<uint8_t>(bytes >> (8 * (selector & 7)));
    if (selector & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= static_cast<uint32_t>(byte) << (8 * i);
  }
  return result;
}

inline uint32_t ones(uint64_t a) { return static_cast<uint32_t>(__builtin_popcountll(a)); }
template <class T>
inline uint32_t leading_zeros(T a) {
  uint32_t n = 0;
  while (n < 8 * sizeof(T) && !(a >> (8 * sizeof(T) - 1 - n) & 1)) ++n;
  return n;
}
template <class T>
inline T reversed(T a) {
  T result = 0;
  for (unsigned i = 0; i < 8 * sizeof(T); ++i) result = static_cast<T>(result << 1 | (a >> i & 1));
  return result;
}

// c + the sum of four products of bytes.
template <class A, class B>
inline uint32_t dot(uint32_t a, uint32_t b, uint32_t c) {
  for (unsigned i = 0; i < 4; ++i) {
    const int product = static_cast<A>(a >> (8 * i)) * static_cast<B>(b >> (8 * i));
    c += static_cast<uint32_t>(product);
  }
  return c;
}

// --- floats ---

template <class T>
inline bool unordered(T a, T b) {
  return a != a || b != b;
}

// Of a NaN and a number the number; -0 is below +0.
template <class T>
inline T minimum(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (a != a || b != b) {
      return a == a ? a : b == b ? b : std::numeric_limits<T>::quiet_NaN();
    }
    if (a == b) return std::signbit(a) ? a : b;
  }
  return a < b ? a : b;
}
template <class T>
inline T maximum(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (a != a || b != b) {
      return a == a ? a : b == b ? b : std::numeric_limits<T>::quiet_NaN();
    }
    if (a == b) return std::signbit(a) ? b : a;
  }
  return a < b ? b : a;
}
template <class T>
inline T minimum_or_nan(T a, T b) {
  return unordered(a, b) ? std::numeric_limits<T>::quiet_NaN() : minimum(a, b);
}
template <class T>
inline T maximum_or_nan(T a, T b) {
  return unordered(a, b) ? std::numeric_limits<T>::quiet_NaN() : maximum(a, b);
}

template <class T>
inline T negative(T a) {
  if constexpr (std::is_floating_point_v<T>) {
    return -a;
  } else {
    return static_cast<T>(Unsigned<T>{0} - static_cast<Unsigned<T>>(a));
  }
}
template <class T>
inline T magnitude(T a) {
  if constexpr (std::is_floating_point_v<T>) {
    return std::fabs(a);
  } else {
    return a < 0 ? negative(a) : a;
  }
}
// A whole number as an integer, the nearest one where it is out of range. NaN gives 0, or the
// highest bit alone where the integer has 64 bits.
template <class T, class Float>
inline T to_integer(Float value) {
  using Limits = std::numeric_limits<T>;
  if (value != value) return sizeof(T) < 8 ? T{0} : static_cast<T>(uint64_t{1} << 63);
  // A power of two, one more than the largest: exact where the largest itself is not.
  const Float above = 2 * static_cast<Float>(Limits::max() / 2 + 1);
  if (value >= above) return Limits::max();
  if (value <= static_cast<Float>(Limits::min())) return Limits::min();
  return static_cast<T>(value);
}

// An integer as a narrower one, or the nearest one that there is.
template <class T, class From>
inline T saturated(From value) {
  const auto wide = static_cast<__int128>(value);
  const auto low = static_cast<__int128>(std::numeric_limits<T>::min());
  const auto high = static_cast<__int128>(std::numeric_limits<T>::max());
  return static_cast<T>(wide < low ? low : wide > high ? high : wide);
}

// --- threads ---

inline uint3 thread_index() { return emulator::current->index; }
inline uint3 block_index() { return emulator::block_index; }
inline dim3 block_size() { return emulator::block_size; }
inline dim3 grid_size() { return emulator::grid_size; }
inline uint32_t lane() { return static_cast<uint32_t>(emulator::current->lane); }

inline void sync_block(const char* site) {
  emulator::block_sync(emulator::Barrier::plain, 0, site);
}

// A ballot, a reduction, or a wait.
inline uint32_t gather(Collective purpose, uint32_t mask, uint32_t value, const char* site) {
  return static_cast<uint32_t>(emulator::collective(purpose, mask, value, 0, 32, site));
}

struct Shuffled {
  uint32_t value;
  bool in_range;  // the source lane is in the lane's own segment
};

// `bounds` has the segments' mask in bits 8 to 12.
inline Shuffled shuffle(Collective purpose, uint32_t mask, uint32_t value, int source,
                        uint32_t bounds, const char* site) {
  const int width = 32 - static_cast<int>(bounds >> 8 & 31);
  const int inside = static_cast<int>(lane()) & (width - 1);
  bool in_range = true;
  if (purpose == Collective::shuffle_up) in_range = inside >= source;
  if (purpose == Collective::shuffle_down) in_range = inside + source < width;
  if (purpose == Collective::shuffle_xor) in_range = (inside ^ source) < width;
  const uint64_t got = emulator::collective(purpose, mask, value, source, width, site);
  return {static_cast<uint32_t>(got), in_range};
}

// d += a * b: of a warp's 16 x 32 and 32 x 8 bytes, or of 8 x 16 and 16 x 8.
template <size_t kA, size_t kB, size_t kD>
inline void multiply(Collective purpose, const uint32_t (&a)[kA], const uint32_t (&b)[kB],
                     int32_t (&d)[kD], const char* site) {
  emulator::MmaFragment fragment = {};
  std::memcpy(fragment.a, a, sizeof a);
  std::memcpy(fragment.b, b, sizeof b);
  std::memcpy(fragment.d, d, sizeof d);
  emulator::collective(purpose, ~0u, 0, 0, 32, site, &fragment);
  std::memcpy(d, fragment.d, sizeof d);
}

// Lands now or when it is waited for: both must give the same result.
inline void begin_copy(Bytes16* shared, const Bytes16* global, const char* site) {
  if (emulator::land_now()) {
    *shared = *global;
  } else {
    emulator::push_copy(shared, global, site);
  }
}
inline void wait_for_copies(int pending) {
  void* shared;
  const void* global;
  while (emulator::pop_copy(pending, &shared, &global)) {
    *static_cast<Bytes16*>(shared) = *static_cast<const Bytes16*>(global);
  }
}

}  // namespace ptx
