#include "forward/editor.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

namespace pythia_rt {

namespace {

Rows rows_of(Rows values, const TextRows& text) {
  return {values.row(text.first_row), text.count, values.width, values.stride};
}

}  // namespace

void call_function(const Edit& edit, float* values, int64_t n, const std::vector<int64_t>& shape,
                   int64_t first_position, std::vector<float>& chosen) {
  const int64_t size =
      std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<int64_t>());
  std::vector<int64_t> whole{n};
  whole.insert(whole.end(), shape.begin(), shape.end());
  if (!edit.positions) {
    std::vector<int64_t> positions(static_cast<size_t>(n));
    std::iota(positions.begin(), positions.end(), first_position);
    edit.function->change(values, whole, positions.data());
    return;
  }
  const Reach reach = reach_of(*edit.positions, first_position, first_position + n);
  if (reach.begin == reach.end) return;
  const int64_t* positions = edit.positions->data() + reach.begin;
  whole[0] = reach.end - reach.begin;
  chosen.resize(static_cast<size_t>(whole[0] * size));
  for (int64_t i = 0; i < whole[0]; ++i) {
    std::copy_n(values + (positions[i] - first_position) * size, size, chosen.data() + i * size);
  }
  edit.function->change(chosen.data(), whole, positions);
  for (int64_t i = 0; i < whole[0]; ++i) {
    std::copy_n(chosen.data() + i * size, size, values + (positions[i] - first_position) * size);
  }
}

Editor::Editor(std::vector<const Edits*> texts, bool keeps_errors)
    : texts_(std::move(texts)), keeps_errors_(keeps_errors), errors_(texts_.size()) {
  for (const Edits* edits : texts_) {
    if (edits == nullptr) continue;
    for (const auto& [place, list] : edits->places()) places_.insert(place);
  }
}

const std::vector<Edit>* Editor::edits(const Place& place, int64_t text) const {
  const Edits* edits = texts_[static_cast<size_t>(text)];
  return edits == nullptr || error(text) != nullptr ? nullptr : edits->at(place);
}

void Editor::at(const Place& place, Backend& backend, Rows values,
                const std::vector<TextRows>& rows) {
  std::vector<std::pair<const TextRows*, const std::vector<Edit>*>> sums;  // without a function
  for (const TextRows& text : rows) {
    const std::vector<Edit>* list = edits(place, text.text);
    if (list == nullptr) continue;
    if (has_function(*list)) {
      on_behalf(text.text, [&] { change_by_functions(*list, backend, values, text); });
    } else {
      sums.emplace_back(&text, list);
    }
  }
  if (sums.empty()) return;
  backend.on_host(values, true, [&](Rows host, int64_t begin, int64_t end) {
    for (const auto& [text, list] : sums) {
      const int64_t first = std::max(begin - text->first_row, int64_t{0});
      const int64_t last = std::min(end - text->first_row, text->count);
      if (first >= last) continue;
      for (const Edit& edit : *list) {
        change_rows(edit, rows_of(host, *text), first, last, text->first_position);
      }
    }
  });
}

void Editor::change_by_functions(const std::vector<Edit>& edits, Backend& backend, Rows values,
                                 const TextRows& text) {
  const Rows rows = rows_of(values, text);
  rows_.resize(static_cast<size_t>(rows.count * rows.width));
  backend.read(rows, rows_.data());
  for (const Edit& edit : edits) {
    if (edit.function != nullptr) {
      call_function(edit, rows_.data(), rows.count, {rows.width}, text.first_position, chosen_);
    } else {
      change_rows(edit, {rows_.data(), rows.count, rows.width, rows.width}, 0, rows.count,
                  text.first_position);
    }
  }
  backend.write(rows_.data(), rows);
}

}  // namespace pythia_rt
