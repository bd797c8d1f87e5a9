// CUDA's atomic functions. They order nothing else, as on a device: the thread sanitizer knows.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace pythia_rt::cuda::emulator {

// Replaces *p by change(*p) and returns what was there.
template <typename T, typename Change>
T rmw(T* p, const Change& change) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  auto* place = reinterpret_cast<Bits*>(p);
  Bits old_bits = __atomic_load_n(place, __ATOMIC_RELAXED);
  for (;;) {
    T old;
    std::memcpy(&old, &old_bits, sizeof old);
    const T changed = change(old);
    Bits new_bits;
    std::memcpy(&new_bits, &changed, sizeof new_bits);
    if (__atomic_compare_exchange_n(place, &old_bits, new_bits, false, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED)) {
      return old;
    }
  }
}

// Integers wrap.
template <typename T>
T wrapping_sum(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    using Unsigned = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<Unsigned>(a) + static_cast<Unsigned>(b));
  } else {
    return a + b;
  }
}

// Only the pointer says what T is.
template <typename T>
struct Same {
  using Type = T;
};
template <typename T>
using Operand = typename Same<T>::Type;

}  // namespace pythia_rt::cuda::emulator

template <typename T>
T atomicAdd(T* p, pythia_rt::cuda::emulator::Operand<T> value) {
  using namespace pythia_rt::cuda::emulator;
  return rmw(p, [value](T old) { return wrapping_sum(old, value); });
}
template <typename T>
T atomicMax(T* p, pythia_rt::cuda::emulator::Operand<T> value) {
  return pythia_rt::cuda::emulator::rmw(p, [value](T old) { return old < value ? value : old; });
}
template <typename T>
T atomicMin(T* p, pythia_rt::cuda::emulator::Operand<T> value) {
  return pythia_rt::cuda::emulator::rmw(p, [value](T old) { return value < old ? value : old; });
}
template <typename T>
T atomicExch(T* p, pythia_rt::cuda::emulator::Operand<T> value) {
  return pythia_rt::cuda::emulator::rmw(p, [value](T) { return value; });
}
template <typename T>
T atomicCAS(T* p, pythia_rt::cuda::emulator::Operand<T> expected,
            pythia_rt::cuda::emulator::Operand<T> value) {
  return pythia_rt::cuda::emulator::rmw(
      p, [expected, value](T old) { return old == expected ? value : old; });
}
