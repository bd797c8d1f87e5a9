// How keys and values are cached.
#pragma once

namespace pythia_rt {

enum class KvFormat : int { f16, f32 };

// The cache of one sequence, one layer, one head. Keys lie transposed in tiles of 16 positions,
// like the weights of a matrix product, so that a score needs no sum across lanes; values lie
// position by position.
struct KvHead {
  void* keys;    // [capacity / 16][head_dim][16 positions]
  void* values;  // [capacity][head_dim padded to 16]
};

}  // namespace pythia_rt
