#include "simd_cases.h"

#include <cmath>
#include <limits>

#include "base/half.h"

namespace pythia_rt::conformance {

namespace {

float special_value(Random& random) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  static constexpr float kValues[] = {
      0.0f,     1.0f,     0.5f,       1.5f,     2.5f,         127.5f,  0x1p-126f, 0x1p-149f,
      0x1p-24f, 0x1p-25f, 0x1.8p-25f, 0x1p-14f, 0x1.ffcp-15f, 65504.f, 65519.f,   65520.f,
      88.0f,    -86.99f,  87.0f,      87.5f,    9.0f,         13.0f,   1e-36f,    3.402823466e38f,
      kInfinity};
  const auto count = static_cast<int64_t>(sizeof kValues / sizeof *kValues);
  const float value = kValues[random.integer(0, count - 1)];
  return random.integer(0, 1) == 0 ? value : -value;
}

// Zeros of either sign and one value below: every comparison meets equals.
float zero_or_less(Random& random) {
  constexpr float kValues[] = {0.0f, -0.0f, -1.0f};
  return kValues[random.integer(0, 2)];
}

float any_value(Random& random) {
  switch (random.integer(0, 3)) {
    case 0:
      return special_value(random);
    case 1: {
      const float value = float_from_bits(static_cast<uint32_t>(random.bits()));
      return std::isnan(value) ? 0.0f : value;
    }
    case 2:  // few distinct values, so that comparisons meet equal ones
      return static_cast<float>(random.integer(-2, 2)) * 0.5f;
    default:
      return random.normal() * 3.0f;
  }
}

// Halfway cases, their neighbours, and magnitudes up to what still fits 32 bits.
float rounding_value(Random& random) {
  if (random.integer(0, 3) == 0) {
    return static_cast<float>(random.integer(-2147483520, 2147483520)) * 0.999f;
  }
  const float half = static_cast<float>(random.integer(-400, 400)) * 0.5f;
  const int64_t neighbour = random.integer(-1, 1);
  return neighbour == 0 ? half : std::nextafter(half, neighbour < 0 ? -1e9f : 1e9f);
}

uint16_t half_value(Random& random) {
  const auto bits = static_cast<uint16_t>(random.bits());
  return std::isnan(float_from_half(bits)) || std::isnan(float_from_bfloat(bits)) ? uint16_t{1}
                                                                                  : bits;
}

// What the products are largest with: all weights at an end, activations at +-127.
void put_extremes(int index, SimdCase& given) {
  given.activation_sum = 0;
  for (int i = 0; i < 64 * kProbeTiles; ++i) {
    const bool odd = i % 2 != 0;
    const bool upper = index % 4 == 0 || (index % 4 >= 2 && odd);
    given.wide[i] = upper ? 255 : 1;
    given.narrow[i] = upper ? 127 : 0;
  }
  for (int i = 0; i < 4 * kProbeTiles; ++i) {
    const bool negative = index >= 4 ? i % 2 != 0 : index % 4 == 3;
    given.activations[i] = negative ? int8_t{-127} : int8_t{127};
  }
}

}  // namespace

SimdCase simd_case(int index, Random& random) {
  SimdCase given;
  for (int i = 0; i < 16; ++i) {
    const bool has_zeros = index % 4 == 1;
    given.a[i] = has_zeros ? zero_or_less(random) : any_value(random);
    given.b[i] = has_zeros ? zero_or_less(random) : any_value(random);
    given.c[i] = any_value(random);
    given.d[i] = any_value(random);
    given.rounding[i] = rounding_value(random);
    given.exponents[i] = std::fmin(any_value(random) * (index % 2 == 0 ? 20.0f : 1.0f), 88.0f);
    given.integers[i] = static_cast<int32_t>(random.integer(-(1 << 26), 1 << 26));
    given.powers[i] = static_cast<int32_t>(random.integer(-126, 127));
    given.bytes_range[i] = static_cast<int32_t>(random.integer(-128, 127));
    given.indices[i] = static_cast<int32_t>(random.integer(0, 15));
    given.halves[i] = half_value(random);
    given.table[i] = static_cast<uint8_t>(random.integer(0, 127));
  }
  for (uint8_t& byte : given.wide) byte = static_cast<uint8_t>(random.integer(1, 255));
  for (uint8_t& byte : given.narrow) byte = static_cast<uint8_t>(random.integer(0, 127));
  for (uint8_t& byte : given.codes) byte = static_cast<uint8_t>(random.bits());
  for (int8_t& code : given.activations) code = static_cast<int8_t>(random.integer(-127, 127));
  if (index < kExtremeCases) put_extremes(index, given);
  given.activation_sum = 0;
  for (const int8_t code : given.activations) given.activation_sum += code;
  given.count = index % 18;
  return given;
}

}  // namespace pythia_rt::conformance
