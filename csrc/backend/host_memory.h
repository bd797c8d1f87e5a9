// The memory that a CPU gives to others, and what it works in itself.
#pragma once

#include "backend/backend.h"
#include "base/aligned_buffer.h"
#include "base/large_pages.h"

namespace pythia_rt {

class HostBuffer : public DeviceBuffer {
 public:
  explicit HostBuffer(size_t bytes) : buffer_(bytes) { prefer_large_pages(buffer_.data(), bytes); }
  std::byte* data() const override { return buffer_.data(); }

 private:
  AlignedBuffer buffer_;
};

// Memory that only grows, for scratch whose size depends on the work at hand.
class Scratch {
 public:
  template <typename T>
  T* get(int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    if (buffer_.size() < bytes) buffer_ = AlignedBuffer(bytes);
    return buffer_.as<T>();
  }

 private:
  AlignedBuffer buffer_;
};

}  // namespace pythia_rt
