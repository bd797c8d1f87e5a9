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
};

// For so many positions, a multiple of 16.
KvSizes kv_sizes(KvFormat format, int64_t head_dim, int64_t positions);

// What a page holds, kPagePositions of each head: [layers][heads][keys | values | key scales |
// value scales].
struct PageLayout {
  KvSizes head;
  int64_t head_bytes;  // a multiple of 64
  int64_t n_heads;     // of keys and values, in a layer
  int64_t n_layers;

  int64_t bytes() const { return n_layers * n_heads * head_bytes; }
};

PageLayout page_layout(KvFormat format, int64_t head_dim, int64_t n_heads, int64_t n_layers);

// Writes zeros where the positions of a page from `first` on stand.
void clear_positions(const PageLayout& layout, KvFormat format, int64_t first, std::byte* page);

// The pages of one sequence, as many as its positions need.
struct KvPages {
  std::byte* const* pages;
  PageLayout layout;

  PagedHead head(int64_t layer, int64_t index) const;
};

// What of a head stands in one page.
KvHead head_in_page(const PagedHead& head, int64_t page);

}  // namespace pythia_rt
