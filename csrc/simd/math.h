// exp and the activation functions, once, over the 16-lane vector. Include after an ISA's header.
#pragma once

#include "simd/simd.h"

namespace pythia_rt::PYTHIA_RT_ISA {

// e^x for x <= 88, within 2 units in the last place; exactly 0 below -87 (a masked score of minus
// infinity included). x = n ln 2 + r, |r| <= ln 2 / 2; e^r = 1 + r + r^2 p(r), p fitted by
// Chebyshev interpolation (error 8e-9).
inline Vec exp(Vec x) {
  const Vec lowest = broadcast(-87.0f);
  const Vec clamped = max(x, lowest);
  const IntVec n = round_to_int(clamped * broadcast(1.44269504f));
  const Vec n_float = to_float(n);
  Vec r = fma(n_float, broadcast(-0.693359375f), clamped);  // ln 2 in two parts, the first exact
  r = fma(n_float, broadcast(2.12194440e-4f), r);
  Vec p = broadcast(1.3933733571e-3f);
  p = fma(p, r, broadcast(8.3632357419e-3f));
  p = fma(p, r, broadcast(4.1666463017e-2f));
  p = fma(p, r, broadcast(1.6666576266e-1f));
  p = fma(p, r, broadcast(0.5f));
  const Vec power = fma(r * r, p, r) + broadcast(1.0f);
  return select_less(x, lowest, zero(), scale_by_power(power, n));
}

// erfc(z) for 0 <= z <= 9, relative error below 2e-6 (absolute below 1e-7): t e^(-z^2 + p(t)) with
// t = 1 / (1 + z/2), the form of Numerical Recipes (section 6.2); p fitted by Chebyshev
// interpolation for this file (error 5e-8).
inline Vec erfc_of_positive(Vec z) {
  const Vec t = broadcast(1.0f) / fma(z, broadcast(0.5f), broadcast(1.0f));
  Vec p = broadcast(0.14493021369f);
  p = fma(p, t, broadcast(-0.68082720041f));
  p = fma(p, t, broadcast(1.1567337513f));
  p = fma(p, t, broadcast(-0.6962518692f));
  p = fma(p, t, broadcast(-0.0802804306f));
  p = fma(p, t, broadcast(0.0012675872f));
  p = fma(p, t, broadcast(0.0346028025f));
  p = fma(p, t, broadcast(0.3866403997f));
  p = fma(p, t, broadcast(0.9986327887f));
  p = fma(p, t, broadcast(-1.2654479742f));
  return t * exp(fma(zero() - z, z, p));
}

// x Phi(x) = max(x, 0) - |x| erfc(|x| / sqrt 2) / 2: no cancellation on the negative side, where
// x (1 + erf(x / sqrt 2)) / 2 loses its digits. (Hendrycks and Gimpel 2016, equation 1.)
inline Vec gelu(Vec x) {
  const Vec magnitude = abs(x);
  const Vec z = min(magnitude * broadcast(0.70710678f), broadcast(9.0f));
  return max(x, zero()) - magnitude * broadcast(0.5f) * erfc_of_positive(z);
}

// The tanh form: x (1 + tanh u) / 2 = x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3).
inline Vec gelu_tanh(Vec x) {
  const Vec cubic = fma(x * x * x, broadcast(0.044715f), x);
  const Vec exponent = min(cubic * broadcast(-1.5957691216f), broadcast(88.0f));
  return x / (broadcast(1.0f) + exp(exponent));
}

// x / (1 + e^-x). (Elfwing et al. 2017, section 2.) Below -88 its value at -88, -5e-37, stands for
// what lies between that and 0.
inline Vec silu(Vec x) {
  const Vec bounded = max(broadcast(-88.0f), x);  // a NaN stays one: of unordered values the second
  return bounded / (broadcast(1.0f) + exp(zero() - bounded));
}

inline Vec relu(Vec x) { return max(zero(), x); }  // likewise

}  // namespace pythia_rt::PYTHIA_RT_ISA
