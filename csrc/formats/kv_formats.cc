#include "formats/kv_formats.h"

#include <algorithm>

#include "base/error.h"
#include "base/rounding.h"

namespace pythia_rt {

namespace {

struct Entry {
  const char* name;
  int64_t code_bytes;
  bool is_scaled;
};

constexpr Entry kEntries[] = {
#define PYTHIA_RT_KV_FORMAT(cache, name, code_type, is_scaled) \
  {#name, sizeof(code_type), is_scaled},
#include "formats/kv_formats.inc"
#undef PYTHIA_RT_KV_FORMAT
};

}  // namespace

std::vector<std::string> kv_format_names() {
  std::vector<std::string> names;
  for (const Entry& entry : kEntries) names.emplace_back(entry.name);
  return names;
}

KvFormat kv_format_from_name(const std::string& name) {
  std::string known;
  for (int i = 0; i < kKvFormatCount; ++i) {
    if (name == kEntries[i].name) return static_cast<KvFormat>(i);
    known += std::string(known.empty() ? "" : ", ") + kEntries[i].name;
  }
  throw_invalid("there is no KV cache format '", name, "'; there are ", known);
}

PageLayout page_layout(KvFormat format, int64_t head_dim, int64_t n_heads, int64_t n_layers) {
  const KvSizes head = kv_sizes(format, head_dim, kPagePositions);
  return {head, round_up(head.total(), int64_t{64}), n_heads, n_layers};
}

namespace {

// Tiles of rows of 16 items, one for each position.
void clear_in_tiles(std::byte* tiles, int64_t bytes, int64_t item_bytes, int64_t first) {
  const int64_t row_bytes = 16 * item_bytes;
  const int64_t tile_bytes = bytes / (kPagePositions / 16);
  const int64_t tile = first / 16;
  const int64_t kept = first % 16 * item_bytes;  // of each row of this tile
  std::byte* const cut = tiles + tile * tile_bytes;
  for (int64_t row = 0; row < tile_bytes; row += row_bytes) {
    std::fill(cut + row + kept, cut + row + row_bytes, std::byte{0});
  }
  std::fill(cut + tile_bytes, tiles + bytes, std::byte{0});
}

}  // namespace

void clear_positions(const PageLayout& layout, KvFormat format, int64_t first, std::byte* page) {
  if (first >= kPagePositions) return;
  const KvSizes& sizes = layout.head;
  const int64_t code_bytes = kEntries[static_cast<int>(format)].code_bytes;
  for (int64_t i = 0; i < layout.n_layers * layout.n_heads; ++i, page += layout.head_bytes) {
    std::byte* const values = page + sizes.keys;
    std::byte* const key_scales = values + sizes.values;
    clear_in_tiles(page, sizes.keys, code_bytes, first);
    std::fill(values + sizes.values / kPagePositions * first, key_scales, std::byte{0});
    for (int64_t part = 0; part < 2 && sizes.scales > 0; ++part) {
      clear_in_tiles(key_scales + part * sizes.scales, sizes.scales, sizeof(uint16_t), first);
    }
  }
}

PagedHead KvPages::head(int64_t layer, int64_t index) const {
  const KvSizes& sizes = layout.head;
  const int64_t keys = (layer * layout.n_heads + index) * layout.head_bytes;
  const int64_t values = keys + sizes.keys;
  const int64_t key_scales = values + sizes.values;
  return {pages, keys, values, key_scales, key_scales + sizes.scales};
}

KvHead head_in_page(const PagedHead& head, int64_t page) {
  std::byte* const memory = head.pages[page];
  return {memory + head.keys, memory + head.values,
          reinterpret_cast<uint16_t*>(memory + head.key_scales),
          reinterpret_cast<uint16_t*>(memory + head.value_scales)};
}

KvSizes kv_sizes(KvFormat format, int64_t head_dim, int64_t positions) {
  const Entry& entry = kEntries[static_cast<int>(format)];
  const int64_t groups = divide_up(head_dim, kKvGroup);
  return {positions * head_dim * entry.code_bytes, positions * groups * kKvGroup * entry.code_bytes,
          entry.is_scaled ? positions * groups * static_cast<int64_t>(sizeof(uint16_t)) : 0};
}

}  // namespace pythia_rt
