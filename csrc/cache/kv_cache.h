// Keys and values of one sequence, for every layer and head.
#pragma once

#include <cstdint>
#include <vector>

#include "cache/page_pool.h"

namespace pythia_rt {

// A table of pages. A copy shares them: whoever first writes into one that is shared gets its own.
class KvCache {
 public:
  // The pool must outlive it.
  KvCache(PagePool& pool, KvFormat format);

  KvFormat format() const { return format_; }
  int64_t n_pages() const { return static_cast<int64_t>(pages_.size()); }

  // Tokens whose keys and values are stored.
  int64_t length() const { return length_; }
  // Forgets what stands after `length`, and counts what was written there before.
  void set_length(int64_t length);

  // Whether `count` positions more can be written as the pages are.
  bool has_room(int64_t count) const;
  // Takes pages for them, and a copy of a page that others hold too. The devices must be the
  // caller's alone. Throws NoRoom, and nothing has changed.
  void make_room(int64_t count);
  // Gives back the pages behind the last position.
  void trim();

  // The pages of the first `length` positions.
  std::vector<PageRef> share(int64_t length) const;
  // Becomes, empty, so long by the pages that another cache of the pool and format has shared.
  void adopt(std::vector<PageRef> pages, int64_t length);

  // What the device of a stage reads and writes, the first being number 0; holds until the next
  // call that takes or gives back pages.
  KvPages pages(size_t stage) const;

  // Bytes of a page on the host, PagePool::page_bytes(): stage by stage [layer][head][keys | values
  // | key scales | value scales], zero where no position was written. The same tokens make the same
  // bytes, on every device that has the same layers.
  void read_page(int64_t index, std::byte* out) const;
  // Appends the positions of such a page, kPagePositions of them or, in the last page, less; the
  // length must be a multiple of kPagePositions. Throws NoRoom.
  void append_page(const std::byte* bytes, int64_t count);

 private:
  void add(PageRef page);

  PagePool* pool_;
  KvFormat format_;
  int64_t length_ = 0;
  std::vector<PageRef> pages_;
  std::vector<std::vector<std::byte*>> memory_;  // [stages][pages]
};

}  // namespace pythia_rt
