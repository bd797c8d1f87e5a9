// Everything that can be asked of a KV cache format by its tag: its name and sizes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "formats/kv_head.h"

namespace pythia_rt {

std::vector<std::string> kv_format_names();
KvFormat kv_format_from_name(const std::string& name);  // throws, listing the names there are

// Bytes of the four parts of a KvHead, close together.
struct KvSizes {
  int64_t keys, values, scales;  // of the keys' scales and of the values' alike

  int64_t total() const { return keys + values + 2 * scales; }
  // The parts in total() bytes of memory.
  KvHead place(std::byte* memory) const;
};

// The heads of one sequence in all layers, one after another: [layers][n_heads] of head_bytes.
struct KvMemory {
  std::byte* memory;
  KvSizes head_sizes;
  int64_t head_bytes;
  int64_t n_heads;  // of keys and values, in a layer

  KvHead head(int64_t layer, int64_t index) const;
};

// For a capacity that is a multiple of 16.
KvSizes kv_sizes(KvFormat format, int64_t head_dim, int64_t capacity);

}  // namespace pythia_rt
