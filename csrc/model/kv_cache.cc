#include "model/kv_cache.h"

#include "base/rounding.h"

namespace pythia_rt {

KvCache::KvCache(const Spec& spec, const Parts& parts, KvFormat format, int64_t capacity)
    : n_kv_heads_(spec.n_kv_heads),
      capacity_(round_up(capacity, 16)),
      head_(kv_sizes(format, spec.head_dim, capacity_)),
      head_bytes_(round_up(head_.total(), 64)),
      format_(format) {
  for (const Part& part : parts) {
    const int64_t bytes = part.n_layers * n_kv_heads_ * head_bytes_;
    buffers_.push_back(part.backend->allocate(static_cast<size_t>(bytes)));
  }
}

KvMemory KvCache::memory(size_t part) const {
  return {buffers_[part]->data(), head_, head_bytes_, n_kv_heads_};
}

}  // namespace pythia_rt
