// Keys and values of one sequence, for every layer and head.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "formats/kv_formats.h"
#include "model/placement.h"
#include "model/spec.h"

namespace pythia_rt {

class KvCache {
 public:
  // Room for `capacity` positions, each part's layers on its device. On the CPU memory is taken by
  // the pages that positions really use.
  KvCache(const Spec& spec, const Parts& parts, KvFormat format, int64_t capacity);

  int64_t capacity() const { return capacity_; }
  KvFormat format() const { return format_; }

  // Tokens whose keys and values are stored.
  int64_t length() const { return length_; }
  void set_length(int64_t length) { length_ = length; }

  // The layers of a part, by its index; the first one is number 0.
  KvMemory memory(size_t part) const;

 private:
  int64_t n_kv_heads_;
  int64_t capacity_;    // a multiple of 16
  KvSizes head_;        // of one head's parts
  int64_t head_bytes_;  // of one head, a multiple of 64
  KvFormat format_;
  int64_t length_ = 0;
  // Of each part: [layer][kv_head][keys | values | scales of both].
  std::vector<std::unique_ptr<DeviceBuffer>> buffers_;
};

}  // namespace pythia_rt
