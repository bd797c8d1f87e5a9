// Memory that ends where the address space has a hole: reading or writing one byte too far is a
// crash at once, also by vector instructions, which the address sanitizer does not see.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace pythia_rt::conformance {

template <typename T>
class Guarded {
 public:
  // `count` zeroed elements.
  explicit Guarded(int64_t count) : count_(count) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + page - 1) / page * page;
    mapped_ = bytes + page;
    base_ = static_cast<std::byte*>(
        mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + bytes, page, PROT_NONE) != 0) {
      throw std::runtime_error("no memory for a guarded buffer");
    }
    data_ = reinterpret_cast<T*>(base_ + bytes) - count;
  }
  explicit Guarded(const std::vector<T>& values) : Guarded(static_cast<int64_t>(values.size())) {
    for (size_t i = 0; i < values.size(); ++i) data_[i] = values[i];
  }
  ~Guarded() {
    if (base_ != nullptr) munmap(base_, mapped_);
  }
  Guarded(Guarded&& other) noexcept
      : base_(other.base_), mapped_(other.mapped_), data_(other.data_), count_(other.count_) {
    other.base_ = nullptr;
  }
  Guarded& operator=(Guarded&&) = delete;

  T* data() const { return data_; }
  T* end() const { return data_ + count_; }
  int64_t size() const { return count_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  std::byte* base_ = nullptr;
  size_t mapped_ = 0;
  T* data_ = nullptr;
  int64_t count_ = 0;
};

}  // namespace pythia_rt::conformance
