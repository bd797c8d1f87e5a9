// Memory of the device and of the host for copies, owned.
#pragma once

#include <cstdint>
#include <utility>

#include "cuda/runtime.h"

namespace pythia_rt::cuda {

template <std::byte* (*kAllocate)(size_t), void (*kRelease)(std::byte*) noexcept>
class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t bytes) : data_(kAllocate(bytes)), size_(bytes) {}
  Memory(Memory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Memory() { kRelease(data_); }

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

using DeviceMemory = Memory<allocate, release>;
using HostMemory = Memory<allocate_host, release_host>;

// Memory that only grows, for what depends on the work at hand.
template <typename Owned>
class Growing {
 public:
  // Room for `count` values; sets `moved` where the address is another than before.
  template <typename T>
  T* get(int64_t count, bool& moved) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    if (memory_.size() < bytes) {
      memory_ = Owned();  // first: there may not be room for both
      memory_ = Owned(bytes + bytes / 4);
      moved = true;
    }
    return reinterpret_cast<T*>(memory_.data());
  }

 private:
  Owned memory_;
};

}  // namespace pythia_rt::cuda
