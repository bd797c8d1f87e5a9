#include "forward/array_probe.h"

#include <algorithm>

namespace pythia_rt {

void ArrayProbe::replace(const Place& place, const std::vector<int64_t>& numbers,
                         const float* values) {
  Copies& copies = places_[place];
  copies.values = values;
  copies.row_of.assign(static_cast<size_t>(n_tokens_), -1);
  int64_t row = 0;
  for (const int64_t number : numbers) copies.row_of[static_cast<size_t>(number)] = row++;
}

void ArrayProbe::at(const Place& place, Backend& backend, Rows values) {
  const Copies& copies = places_[place];
  if (copies.values != nullptr) replace_rows(copies, backend, values);
  if (copies.out == nullptr) return;
  unasked_.resize(static_cast<size_t>(values.width));
  outs_.clear();
  for (const int64_t number : numbers_) {
    outs_.push_back(number < 0 ? unasked_.data() : copies.out + number * values.width);
  }
  backend.read_rows(values, outs_.data());
}

void ArrayProbe::replace_rows(const Copies& copies, Backend& backend, Rows values) {
  const auto row_of = [&](int64_t number) {
    return number < 0 ? -1 : copies.row_of[static_cast<size_t>(number)];
  };
  const auto is_replaced = [&](int64_t number) { return row_of(number) >= 0; };
  if (std::none_of(numbers_.begin(), numbers_.end(), is_replaced)) return;
  rows_.resize(static_cast<size_t>(values.count * values.width));
  backend.read(values, rows_.data());
  float* row = rows_.data();
  for (const int64_t number : numbers_) {
    if (is_replaced(number)) {
      std::copy_n(copies.values + row_of(number) * values.width, values.width, row);
    }
    row += values.width;
  }
  backend.write(rows_.data(), values);
}

}  // namespace pythia_rt
