// Pages of texts that were read before, found by their tokens.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/fork_safe_mutex.h"
#include "cache/page_pool.h"

namespace pythia_rt {

// A tree for each namespace. A node is a page with the tokens of its positions; below it are the
// pages that have come after it in some text. Only the last page of a text may be partial: it has
// no pages below it, and no other page there begins with its tokens. Pages are shared with the
// sequences that filled them and with those that take them, and nobody writes into a page that
// others hold (KvCache). Any number of threads may use it.
class PrefixIndex {
 public:
  // Of caches of one format. Holds pages of `budget` bytes at most, each counted once, whoever else
  // holds it. The pool must outlive it.
  PrefixIndex(const PagePool& pool, KvFormat format, int64_t budget);

  // The pages of a beginning. Those of all its positions but the last page's are full of it.
  struct Beginning {
    std::vector<PageRef> pages;
    int64_t length = 0;  // positions
  };

  // The longest known beginning of the tokens, which is used by that.
  Beginning find(const std::string& name_space, const int32_t* tokens, int64_t count);

  // Remembers pages that were filled with these tokens. Where it knows the tokens, it keeps the
  // pages it has. Drops others beyond the budget.
  void keep(const std::string& name_space, const int32_t* tokens, const Beginning& beginning);

  // Drops pages until so many bytes are gone or nothing is left, those first that nobody else
  // holds, the least recently used first, and of a text the last. Returns the bytes that it no
  // longer holds.
  int64_t drop(int64_t bytes);

  int64_t n_pages();
  int64_t bytes() { return n_pages() * page_bytes_; }

 private:
  using Tokens = std::vector<int32_t>;

  struct Node {
    Node* parent = nullptr;             // null for the root of a namespace, which has no page
    const Tokens* tokens = nullptr;     // of the page, its key in the parent's children
    const std::string* name = nullptr;  // of a root: its namespace
    PageRef page;
    std::map<Tokens, std::unique_ptr<Node>> children;  // in the order of their tokens
    std::list<Node*>::iterator place;                  // in State::order
  };

  struct State {
    std::map<std::string, Node> roots;
    std::list<Node*> order;  // least recently used first, each after all that are below it
    std::unordered_map<const Page*, int64_t> holders;  // how many nodes have the page
  };

  std::unique_lock<ForkSafeMutex> lock();
  Node& add(Node& parent, Tokens tokens, const PageRef& page);
  void remove(Node& node);
  void touch(Node& node);
  bool is_held_elsewhere(const Node& node) const;

  const int64_t page_bytes_;
  const int64_t budget_;
  ForkSafeMutex mutex_;
  std::unique_ptr<State> state_;
};

}  // namespace pythia_rt
