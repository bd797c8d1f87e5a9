// How a key and a value get into the cache of their head.
#pragma once

#include "kernels/kv_caches.inl"
#include "kernels/table.h"

namespace pythia_rt::PYTHIA_RT_ISA {

// Writes one position: the key as a column of its tile of 16 positions, the value as a row. Nothing
// else is touched, so what stood there before, after a rewind, leaves no trace.
template <typename Cache>
inline void append(const AppendArguments& arguments) {
  using Code = typename Cache::Code;
  const int64_t dim = arguments.head_dim;
  const int64_t tile = arguments.position / 16, lane = arguments.position % 16;
  Code* keys = static_cast<Code*>(arguments.cache.keys) + tile * dim * 16 + lane;
  Code* values =
      static_cast<Code*>(arguments.cache.values) + arguments.position * kv_groups(dim) * 16;
  for (int64_t group = 0; group < kv_groups(dim); ++group) {
    const int64_t i = group * 16;
    const int64_t n = dim - i < 16 ? dim - i : 16;
    Code column[16];
    const uint16_t key_scale = Cache::store_codes(column, load_first(arguments.key + i, n));
    for (int64_t j = 0; j < n; ++j) keys[(i + j) * 16] = column[j];
    const uint16_t value_scale = Cache::store_codes(values + i, load_first(arguments.value + i, n));
    if constexpr (Cache::kIsScaled) {
      const int64_t index = scale_index(tile, group, dim) + lane;
      arguments.cache.key_scales[index] = key_scale;
      arguments.cache.value_scales[index] = value_scale;
    }
  }
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
