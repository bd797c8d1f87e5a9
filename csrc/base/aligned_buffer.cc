#include "base/aligned_buffer.h"

#include <cstdlib>
#include <limits>
#include <utility>

#include "base/error.h"

namespace pythia_rt {

namespace {
constexpr size_t kAlignment = 64;
}

// calloc, not aligned_alloc and memset: large blocks come as untouched zero pages. The block is
// made one alignment step larger; the byte before the data says how far it was shifted.
AlignedBuffer::AlignedBuffer(size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  auto* block = bytes > std::numeric_limits<size_t>::max() - kAlignment
                    ? nullptr
                    : static_cast<std::byte*>(std::calloc(bytes + kAlignment, 1));
  if (block == nullptr) throw NoRoom(text("cannot get ", bytes, " bytes of memory"));
  const size_t shift = kAlignment - reinterpret_cast<size_t>(block) % kAlignment;
  data_ = block + shift;
  data_[-1] = static_cast<std::byte>(shift);
}

AlignedBuffer::~AlignedBuffer() {
  if (data_ != nullptr) std::free(data_ - static_cast<size_t>(data_[-1]));
}

AlignedBuffer::AlignedBuffer(AlignedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

AlignedBuffer& AlignedBuffer::operator=(AlignedBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace pythia_rt
