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
  const int64_t width = values.width;
  rows_.resize(static_cast<size_t>(values.count * width));
  backend.read(values, rows_.data());
  bool is_changed = false;
  for (size_t i = 0; i < numbers_.size(); ++i) {
    const int64_t number = numbers_[i];
    if (number < 0) continue;
    float* row = rows_.data() + static_cast<int64_t>(i) * width;
    const int64_t given =
        copies.values == nullptr ? -1 : copies.row_of[static_cast<size_t>(number)];
    if (given >= 0) {
      std::copy_n(copies.values + given * width, width, row);
      is_changed = true;
    }
    if (copies.out != nullptr) std::copy_n(row, width, copies.out + number * width);
  }
  if (is_changed) backend.write(rows_.data(), values);
}

}  // namespace pythia_rt
