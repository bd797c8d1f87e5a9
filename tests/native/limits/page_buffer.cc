#include "limits/page_buffer.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "base/error.h"
#include "base/rounding.h"

namespace pythia_rt {

namespace {

constexpr size_t kHugePage = size_t{2} << 20;

void fill(uint8_t* data, size_t size) {
  uint64_t state = 0x9e3779b97f4a7c15u;  // xorshift (Marsaglia 2003)
  for (size_t i = 0; i + 8 <= size; i += 8) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    const uint64_t bytes = (state & 0x0707070707070707u) | 0x3838383838383838u;
    std::memcpy(data + i, &bytes, 8);
  }
}

}  // namespace

PageBuffer::PageBuffer(size_t bytes, Kind kind, int file)
    : size_(static_cast<size_t>(round_up(static_cast<int64_t>(bytes), int64_t{kHugePage}))) {
  const bool is_file = kind == Kind::file;
  if (is_file && ftruncate(file, static_cast<off_t>(size_)) != 0) {
    throw_failed("cannot make a file of ", size_, " bytes to map");
  }
  mapped_ = is_file ? size_ : size_ + kHugePage;
  mapping_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE,
                  is_file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, is_file ? file : -1, 0);
  if (mapping_ == MAP_FAILED) throw_failed("cannot map ", mapped_, " bytes");
  data_ = static_cast<uint8_t*>(mapping_);
  if (!is_file) {
    const size_t past = reinterpret_cast<size_t>(mapping_) % kHugePage;
    if (past != 0) data_ += kHugePage - past;
#if defined(MADV_HUGEPAGE) && defined(MADV_NOHUGEPAGE)
    madvise(data_, size_, kind == Kind::huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);  // a wish
#endif
  }
  fill(data_, size_);
  // Written to the disk now, not in the middle of a measurement.
  if (is_file) msync(mapping_, mapped_, MS_SYNC);
}

PageBuffer::~PageBuffer() { munmap(mapping_, mapped_); }

}  // namespace pythia_rt
