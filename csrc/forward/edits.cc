#include "forward/edits.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace pythia_rt {

namespace {

void check_positions(const std::vector<int64_t>& positions) {
  int64_t before = -1;
  for (const int64_t position : positions) {
    if (position <= before) {
      throw_invalid("the positions of an edit are at least 0 and increase: ", position,
                    " cannot come after ", before);
    }
    before = position;
  }
}

void change_row(const float* scale, const float* shift, int64_t width, float* row) {
  for (int64_t i = 0; i < width; ++i) row[i] = changed(scale[i], shift[i], row[i]);
}

}  // namespace

bool is_interruption(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const Interruption&) {
    return true;
  } catch (...) {
    return false;
  }
}

void Edits::add(const Spec& spec, const Place& place, Edit edit) {
  const PointFacts facts = facts_of(spec, place);
  if (edit.positions) check_positions(*edit.positions);
  if (edit.function == nullptr) {
    const auto n_scales = static_cast<int64_t>(edit.scale.size());
    const auto n_shifts = static_cast<int64_t>(edit.shift.size());
    const bool of_keys = facts.width == kWideAsKeys;
    const int64_t width = of_keys ? spec.n_heads : facts.width;
    const auto n_rows =
        edit.positions && !of_keys ? static_cast<int64_t>(edit.positions->size()) : int64_t{1};
    if (of_keys) {
      if (n_scales == 1) edit.scale.resize(static_cast<size_t>(width), edit.scale[0]);
      if (n_shifts == 1) edit.shift.resize(static_cast<size_t>(width), edit.shift[0]);
    }
    if (static_cast<int64_t>(edit.scale.size()) != width) {
      throw_invalid("the scale of an edit of '", facts.name, "' has ", width, " values, not ",
                    n_scales);
    }
    const auto found = static_cast<int64_t>(edit.shift.size());
    if (found != width && found != n_rows * width) {
      throw_invalid("the shift of an edit of '", facts.name, "' has ", width,
                    " values, or as many for each of its positions, not ", n_shifts);
    }
  }
  places_[place].push_back(std::move(edit));
}

bool has_function(const std::vector<Edit>& edits) {
  return std::any_of(edits.begin(), edits.end(),
                     [](const Edit& edit) { return edit.function != nullptr; });
}

const std::vector<Edit>* Edits::at(const Place& place) const {
  const auto found = places_.find(place);
  return found == places_.end() ? nullptr : &found->second;
}

Reach reach_of(const std::vector<int64_t>& positions, int64_t first, int64_t end) {
  const auto begin = std::lower_bound(positions.begin(), positions.end(), first);
  return {begin - positions.begin(),
          std::lower_bound(begin, positions.end(), end) - positions.begin()};
}

void change_rows(const Edit& edit, Rows rows, int64_t begin, int64_t end, int64_t first_position) {
  const int64_t width = rows.width;
  const auto of_each = [&](int64_t number) {
    const bool one_for_all = static_cast<int64_t>(edit.shift.size()) == width;
    return edit.shift.data() + (one_for_all ? 0 : number * width);
  };
  if (!edit.positions) {
    for (int64_t i = begin; i < end; ++i) {
      change_row(edit.scale.data(), of_each(0), width, rows.row(i));
    }
    return;
  }
  const Reach reach = reach_of(*edit.positions, first_position + begin, first_position + end);
  for (int64_t number = reach.begin; number < reach.end; ++number) {
    const int64_t position = (*edit.positions)[static_cast<size_t>(number)];
    change_row(edit.scale.data(), of_each(number), width, rows.row(position - first_position));
  }
}

}  // namespace pythia_rt
