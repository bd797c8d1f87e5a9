#include "model/kv_cache.h"

#include "base/rounding.h"

namespace pythia_rt {

KvCache::KvCache(Backend& backend, const Spec& spec, KvFormat format, int64_t capacity)
    : n_kv_heads_(spec.n_kv_heads), capacity_(round_up(capacity, 16)), format_(format) {
  const int64_t value_size = format == KvFormat::f16 ? 2 : 4;
  key_bytes_ = round_up(capacity_ * spec.head_dim * value_size, 64);
  value_bytes_ = capacity_ * round_up(spec.head_dim, 16) * value_size;
  const int64_t total = spec.n_layers * n_kv_heads_ * (key_bytes_ + value_bytes_);
  buffer_ = backend.allocate(static_cast<size_t>(total));
}

KvHead KvCache::head(int64_t layer, int64_t kv_head) const {
  std::byte* keys = buffer_->data() + (layer * n_kv_heads_ + kv_head) * (key_bytes_ + value_bytes_);
  return {keys, keys + key_bytes_};
}

}  // namespace pythia_rt
