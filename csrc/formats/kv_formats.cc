#include "formats/kv_formats.h"

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

KvHead KvSizes::place(std::byte* memory) const {
  return {memory, memory + keys, reinterpret_cast<uint16_t*>(memory + keys + values),
          reinterpret_cast<uint16_t*>(memory + keys + values + scales)};
}

KvHead KvMemory::head(int64_t layer, int64_t index) const {
  return head_sizes.place(memory + (layer * n_heads + index) * head_bytes);
}

KvSizes kv_sizes(KvFormat format, int64_t head_dim, int64_t capacity) {
  const Entry& entry = kEntries[static_cast<int>(format)];
  const int64_t groups = divide_up(head_dim, kKvGroup);
  return {capacity * head_dim * entry.code_bytes, capacity * groups * kKvGroup * entry.code_bytes,
          entry.is_scaled ? capacity * groups * static_cast<int64_t>(sizeof(uint16_t)) : 0};
}

}  // namespace pythia_rt
