#include "writing/lookup_draft.h"

#include <algorithm>

namespace pythia_rt {

LookupDraft::LookupDraft(const std::vector<int32_t>& predicted, const std::vector<int32_t>& text)
    : n_predicted_(predicted.size()) {
  tokens_.reserve(predicted.size() + text.size());
  for (const int32_t token : predicted) append(token);
  for (const int32_t token : text) append(token);
  if (!predicted.empty()) followed_ = 0;
}

void LookupDraft::extend(int32_t token) {
  if (followed_) {
    const std::size_t end = *followed_ < n_predicted_ ? n_predicted_ : tokens_.size();
    const bool agrees = *followed_ < end && tokens_[*followed_] == token;
    followed_ = agrees && *followed_ + 1 != end ? std::optional(*followed_ + 1) : std::nullopt;
  }
  append(token);
}

// The runs that end before the new token are noted when it comes: then something follows them.
void LookupDraft::append(int32_t token) {
  note_grams();
  tokens_.push_back(token);
}

void LookupDraft::note_grams() {
  // A run across the end of the prediction stands nowhere.
  const std::size_t begin = tokens_.size() > n_predicted_ ? n_predicted_ : 0;
  for (std::size_t length = kShortest; length <= kLongest && begin + length <= tokens_.size();
       ++length)
    places_[length - kShortest][gram(length)] = tokens_.size();
}

// Of the last tokens: a hash, so what it finds is compared.
uint64_t LookupDraft::gram(std::size_t length) const {
  uint64_t hash = 0;
  for (std::size_t i = tokens_.size() - length; i < tokens_.size(); ++i) {
    hash = (hash ^ static_cast<uint32_t>(tokens_[i])) * 0x9E3779B97F4A7C15U;
    hash ^= hash >> 29;
  }
  return hash;
}

// The place behind the longest run that is the same as the one at the end.
std::optional<std::size_t> LookupDraft::find() const {
  const std::size_t n_text = tokens_.size() - n_predicted_;
  for (std::size_t length = kLongest; length >= kShortest; --length) {
    if (length > n_text) continue;
    const auto& places = places_[length - kShortest];
    const auto found = places.find(gram(length));
    if (found == places.end()) continue;
    const auto run = tokens_.end() - static_cast<std::ptrdiff_t>(length);
    const auto end = tokens_.begin() + static_cast<std::ptrdiff_t>(found->second);
    if (std::equal(run, tokens_.end(), end - static_cast<std::ptrdiff_t>(length))) {
      return found->second;
    }
  }
  return std::nullopt;
}

int64_t LookupDraft::propose(int64_t count, int32_t* out, FunctionRef<void()>) {
  if (!followed_) followed_ = find();
  if (!followed_) return 0;
  const std::size_t end = *followed_ < n_predicted_ ? n_predicted_ : tokens_.size();
  const std::size_t n = std::min(static_cast<std::size_t>(count), end - *followed_);
  std::copy_n(tokens_.begin() + static_cast<std::ptrdiff_t>(*followed_), n, out);
  return static_cast<int64_t>(n);
}

}  // namespace pythia_rt
