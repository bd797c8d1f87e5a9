#include "forward/run_probe.h"

namespace pythia_rt {

void RunProbe::start(Backend& backend, Rows x) {
  for (const TextRows& text : rows_) {
    const Stream& stream = streams_[static_cast<size_t>(text.text)];
    const float* rows = stream.rows + (text.first_position - stream.first_position) * x.width;
    backend.write(rows, {x.row(text.first_row), text.count, x.width, x.stride});
  }
}

void RunProbe::begin(const std::vector<TextRows>& rows) {
  rows_ = rows;
  captures_.begin(rows);
  pattern_captures_.begin(captures_.rows());
  for (const TextRows& text : rows) {
    const auto n = static_cast<size_t>(text.text) + 1;
    if (seen_.size() < n) seen_.resize(n);
  }
}

void RunProbe::at(const Place& place, Backend& backend, Rows values) {
  if (editor_.wants(place)) editor_.at(place, backend, values, rows_);
  if (captures_.wants(place)) captures_.at(place, backend, values);
}

void RunProbe::attended(int64_t layer, Backend& backend, const AttentionRows& rows) {
  std::vector<SeenText*> seen;
  for (SeenText& text : seen_) seen.push_back(&text);
  patterns_.at(layer, backend, rows, rows_, seen, editor_, &pattern_captures_);
}

}  // namespace pythia_rt
