#include "cache/prefix_index.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace pythia_rt {

namespace {

using Tokens = std::vector<int32_t>;

int64_t agreeing(const Tokens& a, const Tokens& b) {
  const auto count = static_cast<std::ptrdiff_t>(std::min(a.size(), b.size()));
  return std::mismatch(a.begin(), a.begin() + count, b.begin()).first - a.begin();
}

bool begins_with(const Tokens& tokens, const Tokens& beginning) {
  return agreeing(tokens, beginning) == static_cast<int64_t>(beginning.size());
}

// Those of the page that begins at the position `begin`.
Tokens page_of(const int32_t* tokens, int64_t begin, int64_t end) {
  return {tokens + begin, tokens + std::min(begin + kPagePositions, end)};
}

// The child that agrees with the tokens at most places from the first on, of a node that has
// children: in lexicographic order, one of the two between which they would stand.
template <typename Children>
typename Children::const_iterator closest(const Children& children, const Tokens& tokens) {
  const auto after = children.lower_bound(tokens);
  if (after == children.begin()) return after;
  const auto before = std::prev(after);
  if (after == children.end()) return before;
  return agreeing(before->first, tokens) > agreeing(after->first, tokens) ? before : after;
}

}  // namespace

PrefixIndex::PrefixIndex(const PagePool& pool, KvFormat format, int64_t budget)
    : page_bytes_(pool.page_bytes(format)), budget_(budget), state_(std::make_unique<State>()) {}

// In a child of fork() that found the trees in the middle of a change, which are not touched again.
std::unique_lock<ForkSafeMutex> PrefixIndex::lock() {
  const bool is_orphaned = mutex_.is_orphaned();
  std::unique_lock lock(mutex_);
  if (is_orphaned) {
    static_cast<void>(state_.release());
    state_ = std::make_unique<State>();
  }
  return lock;
}

PrefixIndex::Beginning PrefixIndex::find(const std::string& name_space, const int32_t* tokens,
                                         int64_t count) {
  const auto guard = lock();
  Beginning found;
  const auto root = state_->roots.find(name_space);
  if (root == state_->roots.end()) return found;
  Node* node = &root->second;
  while (found.length < count && !node->children.empty()) {
    const Tokens wanted = page_of(tokens, found.length, count);
    const auto child = closest(node->children, wanted);
    const int64_t known = agreeing(child->first, wanted);
    if (known == 0) break;
    node = child->second.get();
    found.pages.push_back(node->page);
    found.length += known;
    if (known < kPagePositions) break;
  }
  touch(*node);
  return found;
}

void PrefixIndex::keep(const std::string& name_space, const int32_t* tokens,
                       const Beginning& beginning) {
  if (beginning.length == 0 || budget_ < page_bytes_) return;
  const auto guard = lock();
  const auto root = state_->roots.try_emplace(name_space).first;
  root->second.name = &root->first;
  Node* node = &root->second;
  for (size_t i = 0; i < beginning.pages.size(); ++i) {
    const int64_t begin = static_cast<int64_t>(i) * kPagePositions;
    node = &add(*node, page_of(tokens, begin, beginning.length), beginning.pages[i]);
  }
  touch(*node);
  while (static_cast<int64_t>(state_->holders.size()) * page_bytes_ > budget_) {
    remove(*state_->order.front());
  }
}

// The page with these tokens below `parent`, or one that begins with them, or else a new one, which
// takes the place of one that these begin with.
PrefixIndex::Node& PrefixIndex::add(Node& parent, Tokens tokens, const PageRef& page) {
  const auto after = parent.children.lower_bound(tokens);
  if (after != parent.children.end() && begins_with(after->first, tokens)) return *after->second;
  Node* replaced = nullptr;
  if (after != parent.children.begin() && begins_with(tokens, std::prev(after)->first)) {
    replaced = std::prev(after)->second.get();
  }

  auto node = std::make_unique<Node>();
  node->parent = &parent;
  node->page = page;
  std::list<Node*> place{node.get()};
  const auto holder = state_->holders.try_emplace(page.get(), 0).first;
  const auto child = parent.children.emplace(std::move(tokens), std::move(node)).first;
  // Nothing throws from here on.
  Node& added = *child->second;
  added.tokens = &child->first;
  added.place = place.begin();
  state_->order.splice(state_->order.end(), place);
  holder->second += 1;
  if (replaced != nullptr) remove(*replaced);
  return added;
}

// A node without children.
void PrefixIndex::remove(Node& node) {
  const auto holder = state_->holders.find(node.page.get());
  if (--holder->second == 0) state_->holders.erase(holder);
  state_->order.erase(node.place);
  Node& parent = *node.parent;
  parent.children.erase(parent.children.find(*node.tokens));
  if (parent.parent == nullptr && parent.children.empty()) {
    state_->roots.erase(state_->roots.find(*parent.name));
  }
}

// Those above it come after it in the order.
void PrefixIndex::touch(Node& node) {
  std::list<Node*>& order = state_->order;
  for (Node* used = &node; used->parent != nullptr; used = used->parent) {
    order.splice(order.end(), order, used->place);
  }
}

bool PrefixIndex::is_held_elsewhere(const Node& node) const {
  return node.page.use_count() > state_->holders.at(node.page.get());
}

int64_t PrefixIndex::drop(int64_t bytes) {
  const auto guard = lock();
  const auto held = [this] { return static_cast<int64_t>(state_->holders.size()) * page_bytes_; };
  const int64_t before = held();
  for (const bool also_held_elsewhere : {false, true}) {
    std::list<Node*>& order = state_->order;
    for (auto next = order.begin(); next != order.end() && before - held() < bytes;) {
      Node& node = **next++;
      if (!node.children.empty()) continue;
      if (also_held_elsewhere || !is_held_elsewhere(node)) remove(node);
    }
  }
  return before - held();
}

int64_t PrefixIndex::n_pages() {
  const auto guard = lock();
  return static_cast<int64_t>(state_->holders.size());
}

}  // namespace pythia_rt
