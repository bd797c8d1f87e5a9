#include "forward/pattern_captures.h"

#include <algorithm>
#include <utility>

namespace pythia_rt {

void PatternCaptures::set_targets(std::vector<Targets> targets,
                                  const std::vector<WantedTokens>& texts) {
  targets_ = std::move(targets);
  first_queries_ = {0};
  for (const WantedTokens& text : texts) {
    first_positions_.push_back(text.first_position);
    first_queries_.push_back(first_queries_.back() + text.count);
  }
}

void PatternCaptures::open(const Place& place, int64_t text, int64_t n_keys) {
  text_ = text;
  row_of_.clear();
  const auto found = outs_.find(place);
  if (found == outs_.end()) return;
  std::vector<int64_t> positions;
  for (const WantedRows& rows : wanted_) {
    if (rows.text != text) continue;
    for (int64_t i = 0; i < rows.count; ++i) {
      const auto n = static_cast<int64_t>(positions.size());
      positions.push_back(rows.first_position + i);
      row_of_[positions.back()] = sink_ == nullptr ? rows.first_out + i : n;
    }
  }
  const auto n = static_cast<int64_t>(positions.size());
  if (sink_ == nullptr) {
    out_ = found->second.outs[static_cast<size_t>(text)];
  } else if (n > 0) {
    const size_t index = found->second.index;
    out_ = {sink_->room(index, text, positions, {n_heads_, n, n_keys}), n, n_keys};
  }
}

void PatternCaptures::deliver() {
  if (sink_ != nullptr) sink_->deliver();
}

void PatternCaptures::copy(const float* row, int64_t n_keys, void* out, int64_t first) const {
  if (in_halves_) {
    copy_as_halves(row, n_keys, static_cast<uint16_t*>(out) + first);
  } else {
    std::copy_n(row, n_keys, static_cast<float*>(out) + first);
  }
}

void PatternCaptures::take(const Place& place, int64_t position, const float* row,
                           int64_t n_keys) const {
  const auto wanted = row_of_.find(position);
  if (wanted != row_of_.end()) {
    for (int64_t head = 0; head < n_heads_; ++head) {
      const int64_t first = (head * out_.n_wanted + wanted->second) * out_.n_keys;
      copy(row + head * n_keys, n_keys, out_.data, first);
    }
  }
  const auto sums = sums_.find(place.layer);
  if (place.point != Point::pattern || sums == sums_.end()) return;
  const auto text = static_cast<size_t>(text_);
  const int64_t query = position - first_positions_[text];
  if (query < 0) return;
  const Targets& targets = targets_[text];
  const int64_t begin = targets.starts[static_cast<size_t>(query)];
  const int64_t end = targets.starts[static_cast<size_t>(query) + 1];
  for (int64_t head = 0; head < n_heads_; ++head) {
    double sum = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t key = targets.keys[static_cast<size_t>(i)];
      if (key < n_keys) sum += static_cast<double>(row[head * n_keys + key]);
    }
    sums->second[head * first_queries_.back() + first_queries_[text] + query] =
        static_cast<float>(sum);
  }
}

}  // namespace pythia_rt
