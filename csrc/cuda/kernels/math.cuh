// The smaller integer; exp and the activation functions for one float: simd/math.h, where the
// formulas are explained, with the same operations in the same order, and so the same bits.
#pragma once

#include "cuda/port.cuh"

namespace pythia_rt::cuda {

// By value: a reference to a constant of the host is none on the device.
constexpr int least(int a, int b) { return a < b ? a : b; }

// What simd/ calls max and min: of equal or unordered arguments the second.
__device__ __forceinline__ float larger(float a, float b) { return a > b ? a : b; }
__device__ __forceinline__ float smaller(float a, float b) { return a < b ? a : b; }

// e^x for x <= 88; exactly 0 below -87.
__device__ __forceinline__ float exp(float x) {
  constexpr float kLowest = -87.0f;
  const float clamped = larger(x, kLowest);
  const int n = __float2int_rn(clamped * 1.44269504f);  // ties to even
  const float n_float = static_cast<float>(n);
  float r = fmaf(n_float, -0.693359375f, clamped);
  r = fmaf(n_float, 2.12194440e-4f, r);
  float p = 1.3933733571e-3f;
  p = fmaf(p, r, 8.3632357419e-3f);
  p = fmaf(p, r, 4.1666463017e-2f);
  p = fmaf(p, r, 1.6666576266e-1f);
  p = fmaf(p, r, 0.5f);
  const float power = fmaf(r * r, p, r) + 1.0f;
  const float scale = __uint_as_float((static_cast<unsigned>(n) + 127u) << 23);  // 2^n
  return x < kLowest ? 0.0f : power * scale;
}

// erfc(z) for 0 <= z <= 9.
__device__ __forceinline__ float erfc_of_positive(float z) {
  const float t = 1.0f / fmaf(z, 0.5f, 1.0f);
  float p = 0.14493021369f;
  p = fmaf(p, t, -0.68082720041f);
  p = fmaf(p, t, 1.1567337513f);
  p = fmaf(p, t, -0.6962518692f);
  p = fmaf(p, t, -0.0802804306f);
  p = fmaf(p, t, 0.0012675872f);
  p = fmaf(p, t, 0.0346028025f);
  p = fmaf(p, t, 0.3866403997f);
  p = fmaf(p, t, 0.9986327887f);
  p = fmaf(p, t, -1.2654479742f);
  return t * exp(fmaf(0.0f - z, z, p));
}

// The erf form.
__device__ __forceinline__ float gelu(float x) {
  const float magnitude = fabsf(x);
  const float z = smaller(magnitude * 0.70710678f, 9.0f);
  return larger(x, 0.0f) - magnitude * 0.5f * erfc_of_positive(z);
}

// The tanh form.
__device__ __forceinline__ float gelu_tanh(float x) {
  const float cubic = fmaf(x * x * x, 0.044715f, x);
  const float exponent = smaller(cubic * -1.5957691216f, 88.0f);
  return x / (1.0f + exp(exponent));
}

__device__ __forceinline__ float silu(float x) {
  const float bounded = larger(-88.0f, x);
  return bounded / (1.0f + exp(0.0f - bounded));
}

__device__ __forceinline__ float relu(float x) { return larger(0.0f, x); }

}  // namespace pythia_rt::cuda
