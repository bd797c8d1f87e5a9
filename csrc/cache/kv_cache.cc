#include "cache/kv_cache.h"

#include <algorithm>
#include <utility>

#include "base/rounding.h"

namespace pythia_rt {

namespace {

bool is_shared(const PageRef& page) { return page.use_count() > 1; }

}  // namespace

KvCache::KvCache(PagePool& pool, KvFormat format)
    : pool_(&pool), format_(format), memory_(pool.n_stages()) {}

void KvCache::set_length(int64_t length) {
  const bool is_shorter = length < length_;
  length_ = length;
  if (is_shorter) trim();
}

void KvCache::trim() {
  const auto kept = static_cast<size_t>(divide_up(length_, kPagePositions));
  if (pages_.size() <= kept) return;
  pages_.resize(kept);
  for (auto& memory : memory_) memory.resize(kept);
}

bool KvCache::has_room(int64_t count) const {
  if (count == 0) return true;  // a shared page stays shared
  const int64_t end = divide_up(length_ + count, kPagePositions);
  if (n_pages() < end) return false;
  return std::none_of(pages_.begin() + length_ / kPagePositions, pages_.begin() + end, is_shared);
}

void KvCache::make_room(int64_t count) {
  if (count == 0) return;
  const int64_t first = length_ / kPagePositions;
  const int64_t end = divide_up(length_ + count, kPagePositions);
  std::vector<PageRef> fresh;  // of [first, end), null for those that are the sequence's own
  for (int64_t i = first; i < end; ++i) {
    const bool is_own = i < n_pages() && !is_shared(pages_[static_cast<size_t>(i)]);
    fresh.push_back(is_own ? nullptr : pool_->take(format_));
  }
  pages_.reserve(static_cast<size_t>(end));
  for (auto& memory : memory_) memory.reserve(static_cast<size_t>(end));
  for (int64_t i = first; i < end; ++i) {
    PageRef& page = fresh[static_cast<size_t>(i - first)];
    if (page == nullptr) continue;
    if (i == n_pages()) {
      add(std::move(page));
      continue;
    }
    const auto index = static_cast<size_t>(i);
    if (i * kPagePositions < length_) pool_->copy(*pages_[index], *page);
    for (size_t stage = 0; stage < memory_.size(); ++stage) {
      memory_[stage][index] = page->data[stage];
    }
    pages_[index] = std::move(page);
  }
}

void KvCache::add(PageRef page) {
  for (size_t stage = 0; stage < memory_.size(); ++stage) {
    memory_[stage].push_back(page->data[stage]);
  }
  pages_.push_back(std::move(page));
}

std::vector<PageRef> KvCache::share(int64_t length) const {
  return {pages_.begin(), pages_.begin() + divide_up(length, kPagePositions)};
}

void KvCache::adopt(std::vector<PageRef> pages, int64_t length) {
  for (PageRef& page : pages) add(std::move(page));
  length_ = length;
}

KvPages KvCache::pages(size_t stage) const {
  return {memory_[stage].data(), pool_->layout(format_, stage)};
}

void KvCache::read_page(int64_t index, std::byte* out) const {
  pool_->read(*pages_[static_cast<size_t>(index)], out);
  const int64_t written = std::min(length_ - index * kPagePositions, kPagePositions);
  for (size_t stage = 0; stage < memory_.size(); ++stage) {
    const PageLayout layout = pool_->layout(format_, stage);
    clear_positions(layout, format_, written, out);
    out += layout.bytes();
  }
}

void KvCache::append_page(const std::byte* bytes, int64_t count) {
  make_room(count);
  pool_->write(bytes, *pages_[static_cast<size_t>(length_ / kPagePositions)]);
  length_ += count;
}

}  // namespace pythia_rt
