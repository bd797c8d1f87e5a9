// Every operation of simd.h and math.h behind a plain function: compiled once per ISA, like the
// kernels, after the ISA's header. Operations on memory work at the edge of mapped memory.
#pragma once

#include "simd/math.h"
#include "simd_probe.h"

namespace pythia_rt::PYTHIA_RT_ISA {

using conformance::kProbeTiles;
using conformance::SimdCase;
using conformance::SimdOperation;
using conformance::SimdResult;

// Copies operands to where the next byte is not mapped.
template <typename T>
inline T* to_edge(unsigned char* edge, const T* values, int64_t count) {
  T* place = reinterpret_cast<T*>(edge) - count;
  __builtin_memcpy(place, values, static_cast<size_t>(count) * sizeof(T));
  return place;
}
inline void keep(SimdResult* result, Vec v) { store(reinterpret_cast<float*>(result->word), v); }
inline void keep(SimdResult* result, IntVec v) {
  int_store(reinterpret_cast<int32_t*>(result->word), v);
}
inline void keep(SimdResult* result, float x) { __builtin_memcpy(result->word, &x, 4); }
inline void keep(SimdResult* result, int32_t x) { __builtin_memcpy(result->word, &x, 4); }
inline void keep_memory(SimdResult* result, const void* p, int64_t bytes) {
  __builtin_memcpy(result->word, p, static_cast<size_t>(bytes));
}
inline void keep(SimdResult* result, Tile tile) {
  store_tile(reinterpret_cast<uint8_t*>(result->word), tile);
}

// name, whether the result is f32, expression or statements over `given`, `edge` and `result`.
// clang-format off
#define PYTHIA_RT_PURE_OPERATIONS(OPERATION)                                                     \
  OPERATION(zero, true, zero())                                                                  \
  OPERATION(broadcast, true, broadcast(given.a[0]))                                              \
  OPERATION(load, true, load(to_edge(edge, given.a, 16)))                                        \
  OPERATION(load_first, true, load_first(to_edge(edge, given.a, count), given.count))            \
  OPERATION(load_f16, true, load_f16(to_edge(edge, given.halves, 16)))                           \
  OPERATION(load_bf16, true, load_bf16(to_edge(edge, given.halves, 16)))                         \
  OPERATION(add, true, a + b)                                                                    \
  OPERATION(subtract, true, a - b)                                                               \
  OPERATION(multiply, true, a * b)                                                               \
  OPERATION(divide, true, a / b)                                                                 \
  OPERATION(multiply_then_add, true, a * b + c)                                                  \
  OPERATION(min, true, min(a, b))                                                                \
  OPERATION(max, true, max(a, b))                                                                \
  OPERATION(fma, true, fma(a, b, c))                                                             \
  OPERATION(abs, true, abs(a))                                                                   \
  OPERATION(select_less, true, select_less(a, b, c, d))                                          \
  OPERATION(fill_after, true, fill_after(a, given.count, given.b[0]))                            \
  OPERATION(lookup, true, lookup(a, int_load(given.indices)))                                    \
  OPERATION(reduce_add, true, reduce_add(a))                                                     \
  OPERATION(reduce_max, true, reduce_max(a))                                                     \
  OPERATION(square_root, true, square_root(given.a[0] < 0 ? -given.a[0] : given.a[0]))           \
  OPERATION(scale_by_power, true, scale_by_power(a, int_load(given.powers)))                     \
  OPERATION(int_zero, false, int_zero())                                                         \
  OPERATION(int_broadcast, false, int_broadcast(given.integers[0]))                              \
  OPERATION(int_load, false, int_load(to_edge(edge, given.integers, 16)))                        \
  OPERATION(int_add, false, int_load(given.integers) + int_load(given.powers))                   \
  OPERATION(add_if_less, false, add_if_less(int_load(given.integers), a, b, 8))                  \
  OPERATION(to_float, true, to_float(int_load(given.integers)))                                  \
  OPERATION(round_to_int, false, round_to_int(load(given.rounding)))                             \
  OPERATION(int_reduce_add, false, int_reduce_add(int_load(given.integers)))                     \
  OPERATION(load_i8, false, load_i8(to_edge(edge, given.activations, 16)))                       \
  OPERATION(load_tile, false, load_tile(to_edge(edge, given.narrow, 64)))                        \
  OPERATION(subtract_offset, false, subtract_offset(load_tile(given.codes), given.table[0]))     \
  OPERATION(low_nibbles, false, low_nibbles(load_tile(given.codes), table))                      \
  OPERATION(high_nibbles, false, high_nibbles(load_tile(given.codes), table))                    \
  OPERATION(low_codes, false, low_codes(load_tile(given.codes)))                                 \
  OPERATION(high_codes, false, high_codes(load_tile(given.codes)))                               \
  OPERATION(                                                                                     \
      merge_left, false,                                                                         \
      merge_bits(load_tile(given.narrow), shift_left_4(load_tile(given.codes)), 0xf0))           \
  OPERATION(merge_right_1, false,                                                                \
            merge_bits(load_tile(given.narrow), shift_right<1>(load_tile(given.codes)), 0x10))   \
  OPERATION(merge_right_2, false,                                                                \
            merge_bits(load_tile(given.narrow), shift_right<2>(load_tile(given.codes)), 0x30))   \
  OPERATION(exp, true, exp(load(given.exponents)))                                               \
  OPERATION(gelu, true, gelu(a))                                                                 \
  OPERATION(gelu_tanh, true, gelu_tanh(a))                                                       \
  OPERATION(silu, true, silu(a))                                                                 \
  OPERATION(relu, true, relu(a))
// clang-format on

#define OPERATION(name, is_float, expression)                                           \
  void probe_##name(const SimdCase& given, unsigned char* edge, SimdResult* result) {   \
    [[maybe_unused]] const Vec a = load(given.a), b = load(given.b), c = load(given.c); \
    [[maybe_unused]] const Vec d = load(given.d);                                       \
    [[maybe_unused]] const Table table = load_table(to_edge(edge, given.table, 16));    \
    [[maybe_unused]] const int64_t count = given.count < 16 ? given.count : 16;         \
    keep(result, expression);                                                           \
  }
PYTHIA_RT_PURE_OPERATIONS(OPERATION)
#undef OPERATION

// Stores: the memory is filled with what must stay where the operation does not write.
void probe_store(const SimdCase& given, unsigned char* edge, SimdResult* result) {
  float* place = to_edge(edge, given.b, 16);
  store(place, load(given.a));
  keep_memory(result, place, 64);
}
void probe_store_first(const SimdCase& given, unsigned char* edge, SimdResult* result) {
  const int64_t count = given.count < 16 ? given.count : 16;
  float* place = to_edge(edge, given.b, 16);
  store_first(place, load(given.a), given.count);
  keep_memory(result, place, 64);
  store_first(reinterpret_cast<float*>(edge) - count, load(given.a), given.count);
  keep_memory(result, place, 64);
}
void probe_store_f16(const SimdCase& given, unsigned char* edge, SimdResult* result) {
  uint16_t* place = to_edge(edge, given.halves, 16);
  store_f16(place, load(given.a));
  keep_memory(result, place, 32);
}
void probe_int_store(const SimdCase& given, unsigned char* edge, SimdResult* result) {
  int32_t* place = to_edge(edge, given.powers, 16);
  int_store(place, int_load(given.integers));
  keep_memory(result, place, 64);
}
void probe_store_i8(const SimdCase& given, unsigned char* edge, SimdResult* result) {
  int8_t* place = to_edge(edge, given.activations, 16);
  store_i8(place, int_load(given.bytes_range));
  keep_memory(result, place, 16);
}

void probe_store_tile(const SimdCase& given, unsigned char* edge, SimdResult* result) {
  uint8_t* place = to_edge(edge, given.narrow, 64);
  store_tile(place, load_tile(given.codes));
  keep_memory(result, place, 64);
}

// A group's worth of dot products, which must be exact whatever the ISA does on the way.
void probe_wide_dot(const SimdCase& given, unsigned char* edge, SimdResult* result) {
  IntVec acc = wide_begin(given.activation_sum);
  for (int k = 0; k < kProbeTiles; ++k) {
    const Tile tile = load_tile(given.wide + 64 * k);
    acc = wide_dot(acc, tile, to_edge(edge, given.activations + 4 * k, 4));
  }
  keep(result, acc);
}
void probe_narrow_dot(const SimdCase& given, unsigned char* edge, SimdResult* result) {
  IntVec acc = narrow_begin(64 * given.activation_sum);
  for (int k = 0; k < kProbeTiles; ++k) {
    const Tile tile = load_tile(given.narrow + 64 * k);
    acc = narrow_dot(acc, tile, to_edge(edge, given.activations + 4 * k, 4));
  }
  keep(result, acc);
}

#define PYTHIA_RT_TEXT_OF(name) #name
#define PYTHIA_RT_TEXT(name) PYTHIA_RT_TEXT_OF(name)

const conformance::SimdProbe& simd_probe() {
  static constexpr SimdOperation kOperations[] = {
#define OPERATION(name, is_float, expression) {#name, is_float, probe_##name},
      PYTHIA_RT_PURE_OPERATIONS(OPERATION)
#undef OPERATION
          {"store", true, probe_store},
      {"store_first", true, probe_store_first},
      {"store_f16", false, probe_store_f16},
      {"int_store", false, probe_int_store},
      {"store_i8", false, probe_store_i8},
      {"store_tile", false, probe_store_tile},
      {"wide_dot", false, probe_wide_dot},
      {"narrow_dot", false, probe_narrow_dot},
  };
  static constexpr conformance::SimdProbe kProbe = {PYTHIA_RT_TEXT(PYTHIA_RT_ISA), kOperations,
                                                    sizeof kOperations / sizeof *kOperations};
  return kProbe;
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
