// The KV cache on the device: the codes of its formats as in kernels/kv_caches.inl, and where a
// head's block of positions lies in its page (formats/kv_formats.h).
#pragma once

#include "base/rounding.h"
#include "cuda/kernels/math.cuh"
#include "cuda/port.cuh"
#include "formats/kv_formats.h"

namespace pythia_rt::cuda {

// Groups of dimensions that share a scale.
constexpr int kv_groups(int head_dim) { return (head_dim + kKvGroup - 1) / kKvGroup; }

// `decode` makes floats of 2 or 4 codes side by side, aligned to all of them; `encode` a code of a
// value and its group's scale, which is 1 where the format has none.
struct HalfCache : KvCodes<KvFormat::f16> {
  static __device__ __forceinline__ float decode(Code code) { return half_to_float(code); }
  static __device__ __forceinline__ void decode(const Code* codes, float (&out)[2]) {
    const auto word = *reinterpret_cast<const unsigned*>(codes);
    out[0] = half_to_float(static_cast<uint16_t>(word));
    out[1] = half_to_float(static_cast<uint16_t>(word >> 16));
  }
  static __device__ __forceinline__ void decode(const Code* codes, float (&out)[4]) {
    const auto words = *reinterpret_cast<const uint2*>(codes);
    out[0] = half_to_float(static_cast<uint16_t>(words.x));
    out[1] = half_to_float(static_cast<uint16_t>(words.x >> 16));
    out[2] = half_to_float(static_cast<uint16_t>(words.y));
    out[3] = half_to_float(static_cast<uint16_t>(words.y >> 16));
  }
  static __device__ __forceinline__ Code encode(float value, float /*scale*/) {
    return float_to_half(value);
  }
};

struct FloatCache : KvCodes<KvFormat::f32> {
  static __device__ __forceinline__ float decode(Code code) { return code; }
  static __device__ __forceinline__ void decode(const Code* codes, float (&out)[2]) {
    const auto values = *reinterpret_cast<const float2*>(codes);
    out[0] = values.x;
    out[1] = values.y;
  }
  static __device__ __forceinline__ void decode(const Code* codes, float (&out)[4]) {
    const auto values = *reinterpret_cast<const float4*>(codes);
    out[0] = values.x;
    out[1] = values.y;
    out[2] = values.z;
    out[3] = values.w;
  }
  static __device__ __forceinline__ Code encode(float value, float /*scale*/) { return value; }
};

struct ByteCache : KvCodes<KvFormat::q8> {
  // Code `i` of four whose sign bits were flipped, so that they are 128 larger and not negative:
  // as the last bits of 2^23 they make a float faster than a conversion would.
  static __device__ __forceinline__ float byte_of(unsigned flipped, unsigned i) {
    return __uint_as_float(__byte_perm(flipped, 0x4b000000u, 0x7440u | i)) - 8388736.0f;
  }

  static __device__ __forceinline__ float decode(Code code) { return static_cast<float>(code); }
  static __device__ __forceinline__ void decode(const Code* codes, float (&out)[2]) {
    const unsigned flipped = *reinterpret_cast<const uint16_t*>(codes) ^ 0x8080u;
    out[0] = byte_of(flipped, 0);
    out[1] = byte_of(flipped, 1);
  }
  static __device__ __forceinline__ void decode(const Code* codes, float (&out)[4]) {
    const unsigned flipped = *reinterpret_cast<const unsigned*>(codes) ^ 0x80808080u;
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) out[i] = byte_of(flipped, i);
  }
  // The scale of a group, a bf16, from the largest of its magnitudes.
  static __device__ __forceinline__ uint16_t scale_for(float largest) {
    return static_cast<uint16_t>((__float_as_uint(largest / 127.0f) + 0xffffu) >> 16);
  }
  static __device__ __forceinline__ Code encode(float value, float scale) {
    return static_cast<Code>(__float2int_rn(value / (scale == 0.0f ? 1.0f : scale)));
  }
};

// A head's part of a page: all four begin at multiples of 16 bytes.
template <typename Cache>
struct HeadBlock {
  using Code = typename Cache::Code;
  Code* keys;              // [tiles][head_dim][16]
  Code* values;            // [kPagePositions][padded]
  uint16_t* key_scales;    // [tiles][groups][16], or unused
  uint16_t* value_scales;  // likewise
};

// A head's parts of all pages.
template <typename Cache>
struct HeadPages {
  std::byte* const* pages;
  unsigned offset;  // of the head in each page, which is smaller than 4 GB
  int head_dim;

  __device__ __forceinline__ HeadPages(const KvPages& cache, int64_t layer, int64_t index, int dim)
      : pages(cache.pages),
        offset(static_cast<unsigned>((layer * cache.layout.n_heads + index) *
                                     cache.layout.head_bytes)),
        head_dim(dim) {}

  // What head_in_page says on the host.
  __device__ __forceinline__ HeadBlock<Cache> block(int index) const {
    using Code = typename Cache::Code;
    constexpr auto kPositions = static_cast<int>(kPagePositions);
    const int groups = kv_groups(head_dim);
    auto* keys = reinterpret_cast<Code*>(pages[index] + offset);
    Code* values = keys + kPositions * head_dim;
    auto* scales = reinterpret_cast<uint16_t*>(values + kPositions * groups * kKvGroup);
    return {keys, values, scales, scales + kPositions * groups};
  }
};

}  // namespace pythia_rt::cuda
