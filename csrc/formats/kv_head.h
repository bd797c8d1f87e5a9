// How keys and values are cached.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/summation.h"

namespace pythia_rt {

enum class KvFormat : int {
#define PYTHIA_RT_KV_FORMAT(cache, name, code_type, is_scaled) name,
#include "formats/kv_formats.inc"
#undef PYTHIA_RT_KV_FORMAT
};

// What a code is in memory, and whether each kKvGroup of them have a scale.
template <KvFormat kFormat>
struct KvCodes;
#define PYTHIA_RT_KV_FORMAT(cache, name, code_type, is_scaled) \
  template <>                                                  \
  struct KvCodes<KvFormat::name> {                             \
    using Code = code_type;                                    \
    static constexpr bool kIsScaled = is_scaled;               \
  };
#include "formats/kv_formats.inc"
#undef PYTHIA_RT_KV_FORMAT

constexpr int kKvFormatCount = 0
#define PYTHIA_RT_KV_FORMAT(cache, name, code_type, is_scaled) +1
#include "formats/kv_formats.inc"
#undef PYTHIA_RT_KV_FORMAT
    ;

// Dimensions of a head that share a scale: one vector. The rotated ones, the first 16 or 32 of
// most models, so have scales of their own.
constexpr int kKvGroup = 16;

// Positions that a page of the cache holds: what attention takes at a time, so that pages change no
// order of sums.
constexpr int64_t kPagePositions = kAttentionBlock;

// The cache of one layer and head for some positions, in codes of the format. Keys lie transposed
// in tiles of 16 positions, like the weights of a matrix product, so that a score needs no sum
// across lanes; values lie position by position. Scales, bf16, stand in tiles like the keys.
struct KvHead {
  void* keys;              // [positions / 16][head_dim][16 positions]
  void* values;            // [positions][head_dim padded to 16]
  uint16_t* key_scales;    // [positions / 16][groups][16 positions], or unused
  uint16_t* value_scales;  // likewise
};

// The cache of one sequence, one layer, one head: a KvHead in each of the sequence's pages, its
// parts so many bytes from the page's beginning.
struct PagedHead {
  std::byte* const* pages;  // of positions 0 to 127, 128 to 255, ...
  int64_t keys, values, key_scales, value_scales;
};

}  // namespace pythia_rt
