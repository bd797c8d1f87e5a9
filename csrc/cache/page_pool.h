// The memory of all caches of a model, in pages.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "backend/stage.h"
#include "base/fork_safe_mutex.h"
#include "formats/kv_formats.h"

namespace pythia_rt {

// Keys and values of kPagePositions positions, in every layer: on each device those of its layers.
struct Page {
  KvFormat format;
  std::vector<std::byte*> data;                       // [stages]
  std::vector<std::shared_ptr<DeviceBuffer>> memory;  // [stages], that it stands in, with others
  int64_t n_ready = 0;  // bytes, stage by stage, that were used before
};

// A page that sequences share. With its last holder it goes back to its pool.
using PageRef = std::shared_ptr<Page>;

// So many bytes of pages, within the budget, are kept when nobody holds any: a model that writes
// one text after another would otherwise have the system clear memory anew for each.
constexpr int64_t kIdleBytes = int64_t{256} << 20;

// Any number of threads may take pages and give them back. Whoever copies must have the devices for
// itself.
class PagePool {
 public:
  // The stages are the caller's, and live longer.
  PagePool(const Stages& stages, int64_t n_kv_heads, int64_t head_dim);
  PagePool(const PagePool&) = delete;

  size_t n_stages() const { return stages_.size(); }
  PageLayout layout(KvFormat format, size_t stage) const;
  // Of a page, on all devices.
  int64_t page_bytes(KvFormat format) const { return page_bytes_[static_cast<size_t>(format)]; }

  // The bytes that pages may take; kNoBudget, the default, for what the devices have.
  static constexpr int64_t kNoBudget = INT64_MAX;
  int64_t budget() const { return budget_; }
  void set_budget(int64_t bytes);

  // A page that nobody else holds, whatever stands in it. Throws NoRoom beyond the budget or where
  // a device has none.
  PageRef take(KvFormat format);

  // Makes `bytes` more ready of the pages that take() would give next, kPrepared of them at most,
  // which are made if they have to be: the first use of memory is slow, since the system has to
  // find and clear it, and nobody should wait for a whole page. Does nothing beyond the budget or
  // where there is no room.
  static constexpr int64_t kPrepared = 2;
  void prepare(KvFormat format, int64_t bytes) noexcept;

  // What stands in a page, into one that take() gave.
  void copy(const Page& from, Page& to);
  // To and from the host, page_bytes(): stage by stage, each as its layout says.
  void read(const Page& page, std::byte* out);
  void write(const std::byte* bytes, Page& page);

  // Pages that sequences hold, each counted once.
  int64_t n_taken() const { return n_taken_; }
  int64_t bytes_taken() const { return bytes_taken_; }

 private:
  using Idle = std::vector<std::unique_ptr<Page>>;

  std::unique_lock<ForkSafeMutex> lock();
  void give_back(std::unique_ptr<Page> page) noexcept;
  void drop_unneeded() noexcept;
  Idle::reverse_iterator find_idle(KvFormat format);
  std::unique_ptr<Page> reuse(KvFormat format);
  bool has_room_for_another(KvFormat format) const;
  void make_ready(Page& page, int64_t bytes);
  std::unique_ptr<Page> make(KvFormat format);
  std::vector<std::unique_ptr<Page>> make_together(KvFormat format, int64_t count);

  const Stages& stages_;
  int64_t n_kv_heads_;
  int64_t head_dim_;
  std::array<int64_t, kKvFormatCount> page_bytes_{};
  std::atomic<int64_t> budget_{kNoBudget};
  std::atomic<int64_t> n_taken_{0};
  std::atomic<int64_t> bytes_taken_{0};
  ForkSafeMutex mutex_;
  std::unique_ptr<Idle> idle_;  // given back or not taken yet
};

}  // namespace pythia_rt
