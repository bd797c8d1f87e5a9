// The memory that a CPU gives to others, and what it works in itself.
#pragma once

#include <cstring>
#include <limits>
#include <memory>

#include "backend/backend.h"
#include "base/aligned_buffer.h"
#include "base/large_pages.h"

namespace pythia_rt {

class HostBuffer : public DeviceBuffer {
 public:
  explicit HostBuffer(size_t bytes) : buffer_(bytes) { prefer_large_pages(buffer_.data(), bytes); }
  std::byte* data() const override { return buffer_.data(); }
  void make_ready(std::byte* begin, size_t bytes) override {
    constexpr size_t kSmallPage = 4096;  // of the system, at least
    volatile std::byte* const memory = begin;
    for (size_t i = 0; i < bytes; i += kSmallPage) memory[i] = memory[i];
  }

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

// What a backend does with memory, where that is the host's.
class HostBackend : public Backend {
 public:
  std::unique_ptr<DeviceBuffer> allocate(size_t bytes) override {
    return std::make_unique<HostBuffer>(bytes);
  }

  // Memory is taken by the pages that are written.
  size_t free_bytes() const override { return std::numeric_limits<size_t>::max(); }

  const void* hold(const void* data, size_t /*bytes*/) override { return data; }

  void upload(const void* data, size_t bytes, std::byte* out) override {
    copy(static_cast<const std::byte*>(data), bytes, out);
  }
  void download(const std::byte* data, size_t bytes, void* out) override {
    copy(data, bytes, static_cast<std::byte*>(out));
  }
  void copy(const std::byte* data, size_t bytes, std::byte* out) override {
    std::memcpy(out, data, bytes);
  }

  void gather(Rows in, const int64_t* rows, Rows out) override {
    for (int64_t i = 0; i < out.count; ++i) {
      std::memcpy(out.row(i), in.row(rows[i]), static_cast<size_t>(in.stride) * sizeof(float));
    }
  }

  void read(Rows in, float* out) override {
    for (int64_t i = 0; i < in.count; ++i) {
      std::memcpy(out + i * in.width, in.row(i), static_cast<size_t>(in.width) * sizeof(float));
    }
  }

  void write(const float* in, Rows out) override {
    for (int64_t i = 0; i < out.count; ++i) {
      std::memcpy(out.row(i), in + i * out.width, static_cast<size_t>(out.width) * sizeof(float));
    }
  }
};

}  // namespace pythia_rt
