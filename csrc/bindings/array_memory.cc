#include "bindings/array_memory.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <memory>
#include <numeric>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/large_pages.h"

namespace pythia_rt {

namespace {

constexpr size_t kIdleBytes = size_t{64} << 20;   // that are kept for others
constexpr size_t kSmallBytes = size_t{64} << 10;  // of arrays that malloc serves as well

using Memory = std::unique_ptr<AlignedBuffer>;

// Python's lock is held by all who use it. Never destroyed: arrays may outlive the module.
std::vector<Memory>& idle() {
  static auto* const blocks = new std::vector<Memory>();
  return *blocks;
}

// The smallest that is large enough, and not far too large.
Memory take(size_t bytes) {
  std::vector<Memory>& blocks = idle();
  auto best = blocks.end();
  for (auto block = blocks.begin(); block != blocks.end(); ++block) {
    const size_t size = (*block)->size();
    if (size < bytes || size / 2 > bytes) continue;
    if (best == blocks.end() || size < (*best)->size()) best = block;
  }
  if (best == blocks.end()) {
    auto block = std::make_unique<AlignedBuffer>(bytes);
    prefer_large_pages(block->data(), bytes);
    return block;
  }
  Memory block = std::move(*best);
  blocks.erase(best);
  return block;
}

// The oldest go where there are too many.
void give_back(Memory block) {
  std::vector<Memory>& blocks = idle();
  blocks.push_back(std::move(block));
  size_t bytes = 0;
  auto kept = blocks.end();
  while (kept != blocks.begin() && bytes + (*std::prev(kept))->size() <= kIdleBytes) {
    --kept;
    bytes += (*kept)->size();
  }
  blocks.erase(blocks.begin(), kept);
}

}  // namespace

py::array new_array(bool in_halves, const std::vector<int64_t>& shape) {
  const py::dtype type(in_halves ? "e" : "f");
  const auto count = static_cast<size_t>(
      std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<int64_t>()));
  const size_t bytes = count * static_cast<size_t>(type.itemsize());
  if (bytes < kSmallBytes) return py::array(type, shape);
  Memory block = take(bytes);
  const void* data = block->data();
  const py::capsule owner(
      block.get(), [](void* pointer) { give_back(Memory(static_cast<AlignedBuffer*>(pointer))); });
  static_cast<void>(block.release());
  return py::array(type, shape, data, owner);
}

}  // namespace pythia_rt
