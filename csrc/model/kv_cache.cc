#include "model/kv_cache.h"

#include "base/rounding.h"

namespace pythia_rt {

KvCache::KvCache(Backend& backend, const Spec& spec, KvFormat format, int64_t capacity)
    : n_kv_heads_(spec.n_kv_heads),
      capacity_(round_up(capacity, 16)),
      head_(kv_sizes(format, spec.head_dim, capacity_)),
      head_bytes_(round_up(head_.total(), 64)),
      format_(format),
      buffer_(backend.allocate(static_cast<size_t>(spec.n_layers * n_kv_heads_ * head_bytes_))) {}

KvLayer KvCache::layer(int64_t index) const {
  return {buffer_->data() + index * n_kv_heads_ * head_bytes_, head_, head_bytes_};
}

}  // namespace pythia_rt
