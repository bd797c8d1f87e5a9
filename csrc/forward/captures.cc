#include "forward/captures.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/half.h"

namespace pythia_rt {

// Without branches, so that the compiler does several at a time; see half_from_float.
void copy_as_halves(const float* values, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = float_bits(values[i]);
    const uint32_t magnitude = bits & 0x7fffffffu;
    const uint32_t rounded = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
    const uint32_t small = float_bits(float_from_bits(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t half = magnitude < 0x38800000u ? small : rounded;
    half = magnitude >= 0x477ff000u ? 0x7c00u : half;
    half = magnitude > 0x7f800000u ? 0x7e00u : half;
    out[i] = static_cast<uint16_t>(((bits >> 16) & 0x8000u) | half);
  }
}

Captures::Captures(std::vector<WantedTokens> texts, bool in_halves, RowSink* sink)
    : texts_(std::move(texts)), in_halves_(in_halves), sink_(sink) {
  int64_t first = 0;
  for (const WantedTokens& text : texts_) {
    first_of_text_.push_back(first);
    first += text.n_wanted();
  }
}

void Captures::add(const Place& place, size_t index, void* out) {
  outs_[place] = {index, static_cast<std::byte*>(out)};
}

void Captures::begin(const std::vector<TextRows>& rows) {
  rows_.clear();
  for (const TextRows& text : rows) add_rows(text);
}

void Captures::add_rows(const TextRows& rows) {
  const WantedTokens& text = texts_[static_cast<size_t>(rows.text)];
  const auto add = [&](int64_t first, int64_t count, int64_t first_out) {
    const int64_t position = text.first_position + first;
    rows_.push_back(
        {rows.text, rows.first_row + position - rows.first_position, count, position, first_out});
  };
  const int64_t end = rows.first_position + rows.count - text.first_position;
  const int64_t first = std::max<int64_t>(rows.first_position - text.first_position, 0);
  if (first >= end) return;
  if (!text.numbers) return add(first, end - first, first);
  const std::vector<int64_t>& numbers = *text.numbers;
  auto number = std::lower_bound(numbers.begin(), numbers.end(), first);
  while (number != numbers.end() && *number < end) {
    const auto begin = number;
    while (number != numbers.end() && *number < end && *number - *begin == number - begin) ++number;
    add(*begin, number - begin, begin - numbers.begin());
  }
}

// Where each of rows_ goes of a sink.
std::vector<std::byte*> Captures::rooms(size_t index, int64_t width) {
  const int64_t bytes = width * (in_halves_ ? 2 : 4);
  std::vector<std::byte*> places;
  for (size_t i = 0; i < rows_.size();) {
    std::vector<int64_t> positions;
    size_t end = i;
    for (; end < rows_.size() && rows_[end].text == rows_[i].text; ++end) {
      for (int64_t j = 0; j < rows_[end].count; ++j) {
        positions.push_back(rows_[end].first_position + j);
      }
    }
    const auto n = static_cast<int64_t>(positions.size());
    auto* out = static_cast<std::byte*>(sink_->room(index, rows_[i].text, positions, {n, width}));
    for (; i < end; ++i) {
      places.push_back(out);
      out += rows_[i].count * bytes;
    }
  }
  return places;
}

void Captures::at(const Place& place, Backend& backend, Rows values) {
  if (rows_.empty()) return;
  const Out& out = outs_.at(place);
  const int64_t width = values.width, bytes = width * (in_halves_ ? 2 : 4);
  std::vector<std::byte*> places;
  if (sink_ != nullptr) {
    places = rooms(out.index, width);
  } else {
    for (const WantedRows& rows : rows_) {
      const int64_t first = first_of_text_[static_cast<size_t>(rows.text)] + rows.first_out;
      places.push_back(out.data + first * bytes);
    }
  }
  backend.on_host(values, false, [&](Rows host, int64_t begin, int64_t end) {
    for (size_t i = 0; i < rows_.size(); ++i) {
      const WantedRows& rows = rows_[i];
      const int64_t last = std::min(end, rows.first_row + rows.count);
      for (int64_t row = std::max(begin, rows.first_row); row < last; ++row) {
        std::byte* to = places[i] + (row - rows.first_row) * bytes;
        if (in_halves_) {
          copy_as_halves(host.row(row), width, reinterpret_cast<uint16_t*>(to));
        } else {
          std::memcpy(to, host.row(row), static_cast<size_t>(bytes));
        }
      }
    }
  });
  if (sink_ != nullptr) sink_->deliver();
}

}  // namespace pythia_rt
