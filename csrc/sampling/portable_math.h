// exp and log from IEEE +, -, *, / and integer operations alone. The C library's versions differ
// between machines in the last bit, and one bit is enough to turn a draw into another token.
// Compile with -ffp-contract=off: a fused multiply-add rounds once, these formulas round twice.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#ifdef __FAST_MATH__
#error "-ffast-math reorders arithmetic: the same seed would give other tokens on other machines"
#endif

namespace pythia_rt {

static_assert(FLT_EVAL_METHOD == 0, "double arithmetic must not keep excess precision");
static_assert(sizeof(double) == sizeof(std::uint64_t) && DBL_MANT_DIG == 53, "IEEE 754 binary64");

// ln 2 in two parts; the high part has 32 trailing zero bits, so that k * kLn2High is exact for
// every exponent k (constants of fdlibm's e_exp.c).
constexpr double kLn2High = 6.93147180369123816490e-01;
constexpr double kLn2Low = 1.90821492927058770002e-10;
constexpr double kLog2E = 1.44269504088896338700e+00;

// e^x for x <= 709, less than 1.25 units in the last place off; 0 below -708, where results would
// be subnormal. Free of branches, so that compilers vectorise loops over it.
//
// x = k ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor series up to r^13 / 13!.
inline double portable_exp(double x) {
  // Adding 1.5 * 2^52 rounds to the nearest integer, which the low bits of the sum then hold.
  constexpr double kRound = 6755399441055744.0;
  const double rounded = x * kLog2E + kRound;
  const double k = rounded - kRound;
  const double r = (x - k * kLn2High) - k * kLn2Low;
  double y = 1.0 / 6227020800.0;
  y = y * r + 1.0 / 479001600.0;
  y = y * r + 1.0 / 39916800.0;
  y = y * r + 1.0 / 3628800.0;
  y = y * r + 1.0 / 362880.0;
  y = y * r + 1.0 / 40320.0;
  y = y * r + 1.0 / 5040.0;
  y = y * r + 1.0 / 720.0;
  y = y * r + 1.0 / 120.0;
  y = y * r + 1.0 / 24.0;
  y = y * r + 1.0 / 6.0;
  y = y * r + 0.5;
  y = y * r + 1.0;
  y = y * r + 1.0;
  // Multiply by 2^k: add k to the exponent field.
  std::uint64_t exponent, bits;
  std::memcpy(&exponent, &rounded, sizeof(exponent));
  std::memcpy(&bits, &y, sizeof(bits));
  bits += exponent << 52;
  std::memcpy(&y, &bits, sizeof(y));
  return x < -708.0 ? 0.0 : y;
}

// Natural logarithm of a finite x > 0, less than 3 units in the last place off.
//
// x = 2^e m with m in [sqrt(1/2), sqrt(2)); ln m = 2 artanh(s) = 2 (s + s^3/3 + s^5/5 + ...) with
// s = (m - 1) / (m + 1), so s^2 < 0.0295 and eleven terms reach double precision.
inline double portable_log(double x) {
  std::int64_t e = 0;
  if (x < DBL_MIN) {  // subnormal: scale by 2^54
    x *= 18014398509481984.0;
    e = -54;
  }
  std::uint64_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  e += static_cast<std::int64_t>(bits >> 52) - 1023;
  bits = (bits & 0xFFFFFFFFFFFFFULL) | (1023ULL << 52);
  double m;  // first in [1, 2)
  std::memcpy(&m, &bits, sizeof(m));
  if (m > 1.41421356237309504880) {
    m *= 0.5;
    e += 1;
  }
  const double s = (m - 1.0) / (m + 1.0);
  const double z = s * s;
  double y = 1.0 / 21.0;
  for (int n = 19; n >= 1; n -= 2) y = y * z + 1.0 / n;
  const double exponent = static_cast<double>(e);
  return exponent * kLn2High + (2.0 * s * y + exponent * kLn2Low);
}

// The largest of value(0) .. value(n - 1), which are not NaN; -infinity for n = 0. Four running
// maxima, because a single one would wait for itself; a maximum is exact in any order.
template <class Value>
double largest_of(std::size_t n, Value value) {
  constexpr double kNone = -std::numeric_limits<double>::infinity();
  double largest[4] = {kNone, kNone, kNone, kNone};
  for (std::size_t i = 0; i < n / 4 * 4; i += 4) {
    for (std::size_t lane = 0; lane < 4; ++lane) {
      largest[lane] = std::max(largest[lane], static_cast<double>(value(i + lane)));
    }
  }
  for (std::size_t i = n / 4 * 4; i < n; ++i) {
    largest[0] = std::max(largest[0], static_cast<double>(value(i)));
  }
  return std::max(std::max(largest[0], largest[1]), std::max(largest[2], largest[3]));
}

// value(0) + .. + value(n - 1), in four running sums that are added at the end: the same order on
// every machine, and the adders need not wait for each other.
template <class Value>
double sum_of(std::size_t n, Value value) {
  double sums[4] = {};
  for (std::size_t i = 0; i < n / 4 * 4; i += 4) {
    for (std::size_t lane = 0; lane < 4; ++lane) sums[lane] += value(i + lane);
  }
  for (std::size_t i = n / 4 * 4; i < n; ++i) sums[i % 4] += value(i);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

}  // namespace pythia_rt
