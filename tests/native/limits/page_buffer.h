// Memory whose pages are of a known kind: how fast memory is read depends on it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pythia_rt {

// Filled once, so that every page is really there. All bytes lie in 0x38..0x3f at random: read as
// f32, f16 or bf16 they are ordinary numbers below 2, and codes of every format, so one buffer
// serves as anybody's weights, and no two pages are alike for a hypervisor to merge.
class PageBuffer {
 public:
  enum class Kind { small, huge, file };  // 4 KiB; 2 MiB where the system gives them; page cache

  // `file`: for Kind::file the descriptor of an empty file open for writing, which it resizes; not
  // looked at otherwise. Throws std::runtime_error where the memory cannot be had.
  PageBuffer(size_t bytes, Kind kind, int file);
  ~PageBuffer();
  PageBuffer(const PageBuffer&) = delete;
  PageBuffer& operator=(const PageBuffer&) = delete;

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  void* mapping_ = nullptr;
  size_t mapped_ = 0;
  uint8_t* data_ = nullptr;  // on a boundary of 2 MiB
  size_t size_ = 0;
};

}  // namespace pythia_rt
