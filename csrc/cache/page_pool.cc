#include "cache/page_pool.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error.h"
#include "base/rounding.h"

namespace pythia_rt {

PagePool::PagePool(const Stages& stages, int64_t n_kv_heads, int64_t head_dim)
    : stages_(stages),
      n_kv_heads_(n_kv_heads),
      head_dim_(head_dim),
      idle_(std::make_unique<Idle>()) {
  for (int format = 0; format < kKvFormatCount; ++format) {
    for (size_t i = 0; i < n_stages(); ++i) {
      page_bytes_[static_cast<size_t>(format)] += layout(KvFormat{format}, i).bytes();
    }
  }
}

PageLayout PagePool::layout(KvFormat format, size_t stage) const {
  return page_layout(format, head_dim_, n_kv_heads_, stages_[stage].n_layers);
}

// In a child of fork() that found the list in the middle of a change, which is not touched again.
std::unique_lock<ForkSafeMutex> PagePool::lock() {
  const bool is_orphaned = mutex_.is_orphaned();
  std::unique_lock lock(mutex_);
  if (is_orphaned) {
    static_cast<void>(idle_.release());
    idle_ = std::make_unique<Idle>();
  }
  return lock;
}

PagePool::Idle::reverse_iterator PagePool::find_idle(KvFormat format) {
  return std::find_if(idle_->rbegin(), idle_->rend(),
                      [&](const auto& page) { return page->format == format; });
}

std::unique_ptr<Page> PagePool::reuse(KvFormat format) {
  const auto found = find_idle(format);
  if (found == idle_->rend()) return nullptr;
  std::unique_ptr<Page> page = std::move(*found);
  idle_->erase(std::next(found).base());
  return page;
}

std::vector<std::unique_ptr<Page>> PagePool::make_together(KvFormat format, int64_t count) {
  std::vector<std::unique_ptr<Page>> pages;
  for (int64_t i = 0; i < count; ++i) {
    pages.push_back(std::make_unique<Page>());
    pages.back()->format = format;
  }
  for (size_t stage = 0; stage < n_stages(); ++stage) {
    const int64_t bytes = layout(format, stage).bytes();
    const std::shared_ptr<DeviceBuffer> memory =
        stages_[stage].backend->allocate(static_cast<size_t>(count * bytes));
    for (int64_t i = 0; i < count; ++i) {
      pages[static_cast<size_t>(i)]->data.push_back(memory->data() + i * bytes);
      pages[static_cast<size_t>(i)]->memory.push_back(memory);
    }
  }
  return pages;
}

// Pages of small models come several at a time, so that the system's large pages hold them too.
std::unique_ptr<Page> PagePool::make(KvFormat format) {
  constexpr int64_t kLeast = int64_t{1} << 18, kTogether = int64_t{8} << 20;
  const int64_t bytes = page_bytes(format);
  auto pages = make_together(format, bytes < kLeast ? 1 : divide_up(kTogether, bytes));
  std::unique_ptr<Page> page = std::move(pages.front());
  idle_->insert(idle_->end(), std::make_move_iterator(pages.rbegin()),
                std::make_move_iterator(std::prev(pages.rend())));
  return page;
}

PageRef PagePool::take(KvFormat format) {
  constexpr int64_t kMegabyte = 1000 * 1000;
  const int64_t bytes = page_bytes(format);
  std::unique_ptr<Page> page;
  {
    const auto guard = lock();
    if (bytes > budget_ - bytes_taken_) {
      throw NoRoom(text("the cache has a budget of ", budget_ / kMegabyte, " MB, of which ",
                        bytes_taken_ / kMegabyte, " MB are in use: there is no room for the ",
                        bytes / kMegabyte + 1, " MB of another ", kPagePositions, " positions"));
    }
    page = reuse(format);
    if (page == nullptr) {
      idle_->clear();  // of other formats: a device may need their room
      page = make(format);
    }
    n_taken_ += 1;
    bytes_taken_ += bytes;
  }
  page->n_ready = bytes;  // from now on
  return {page.release(), [this](Page* taken) { give_back(std::unique_ptr<Page>(taken)); }};
}

bool PagePool::has_room_for_another(KvFormat format) const {
  int64_t bytes = bytes_taken_ + page_bytes(format);
  for (const auto& page : *idle_) bytes += page_bytes(page->format);
  return bytes <= budget_;
}

void PagePool::prepare(KvFormat format, int64_t bytes) noexcept {
  const auto guard = lock();
  try {
    int64_t n_ready = 0;
    for (auto page = idle_->rbegin(); page != idle_->rend() && n_ready < kPrepared; ++page) {
      if ((*page)->format != format) continue;
      if ((*page)->n_ready < page_bytes(format)) return make_ready(**page, bytes);
      ++n_ready;
    }
    if (n_ready == kPrepared || !has_room_for_another(format)) return;
    // Before those that are ready, which are taken first.
    idle_->insert(idle_->begin(), make(format));
    make_ready(*idle_->front(), bytes);
  } catch (const std::bad_alloc&) {
    // Whoever needs a page will hear of it.
  }
}

void PagePool::make_ready(Page& page, int64_t bytes) {
  const int64_t begin = page.n_ready, end = std::min(begin + bytes, page_bytes(page.format));
  int64_t first = 0;  // of the stage
  for (size_t i = 0; i < n_stages(); ++i) {
    const int64_t size = layout(page.format, i).bytes();
    const int64_t from = std::clamp<int64_t>(begin - first, 0, size);
    const int64_t to = std::clamp<int64_t>(end - first, 0, size);
    if (from < to) page.memory[i]->make_ready(page.data[i] + from, static_cast<size_t>(to - from));
    first += size;
  }
  page.n_ready = std::max(begin, end);
}

void PagePool::give_back(std::unique_ptr<Page> page) noexcept {
  const auto guard = lock();
  n_taken_ -= 1;
  bytes_taken_ -= page_bytes(page->format);
  try {
    idle_->push_back(std::move(page));
  } catch (const std::bad_alloc&) {
    // Then the page is not kept.
  }
  if (n_taken_ == 0) drop_unneeded();
}

void PagePool::set_budget(int64_t bytes) {
  const auto guard = lock();
  budget_ = bytes;
  drop_unneeded();
}

// Those that stay are neighbours: memory that several pages share is released with the last.
void PagePool::drop_unneeded() noexcept {
  std::sort(idle_->begin(), idle_->end(),
            [](const auto& a, const auto& b) { return a->data > b->data; });
  int64_t left = budget_ - bytes_taken_;
  if (n_taken_ == 0) left = std::min(left, kIdleBytes);
  auto kept = idle_->end();
  while (kept != idle_->begin()) {
    left -= page_bytes((*std::prev(kept))->format);
    if (left < 0) break;
    --kept;
  }
  idle_->erase(idle_->begin(), kept);
}

void PagePool::copy(const Page& from, Page& to) {
  for (size_t i = 0; i < n_stages(); ++i) {
    const auto bytes = static_cast<size_t>(layout(from.format, i).bytes());
    stages_[i].backend->copy(from.data[i], bytes, to.data[i]);
  }
}

void PagePool::read(const Page& page, std::byte* out) {
  for (size_t i = 0; i < n_stages(); ++i) {
    const auto bytes = static_cast<size_t>(layout(page.format, i).bytes());
    stages_[i].backend->download(page.data[i], bytes, out);
    out += bytes;
  }
}

void PagePool::write(const std::byte* bytes, Page& page) {
  for (size_t i = 0; i < n_stages(); ++i) {
    const auto size = static_cast<size_t>(layout(page.format, i).bytes());
    stages_[i].backend->upload(bytes, size, page.data[i]);
    bytes += size;
  }
}

}  // namespace pythia_rt
