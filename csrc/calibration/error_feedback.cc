#include "calibration/error_feedback.h"

#include <algorithm>
#include <vector>

#include "base/thread_pool.h"

namespace pythia_rt {

namespace {

// The values that a format's codes stand for, in units of the scale.
class Grid {
 public:
  explicit Grid(Format format) {
    const std::vector<int> levels = pythia_rt::levels(format);
    // -128 is no code of q8 (q8.h); the others' lowest code has the lowest level.
    const size_t least = format == Format::q8 ? 1 : 0;
    levels_.assign(levels.begin(), levels.end());
    lowest_ = levels_[least];
    const int steps = 4 * (levels.back() - levels[least]) + 1;
    last_step_ = static_cast<float>(steps - 1);
    size_t code = least;
    for (int step = 0; step < steps; ++step) {
      const int middle = 8 * levels[least] + 2 * step + 1;  // of the step, in eighths
      while (code + 1 < levels.size() && 4 * (levels[code] + levels[code + 1]) < middle) ++code;
      nearest_.push_back(static_cast<uint8_t>(code));
    }
  }

  float level(uint8_t code) const { return levels_[code]; }

  // The code whose level is nearest to `value`. Half way between two levels is a multiple of 1/2:
  // steps of 1/4 never straddle it.
  uint8_t nearest(float value) const {
    const float step = (value - lowest_) * 4.0f;
    const float bounded = step > 0 ? step : 0.0f;
    return nearest_[static_cast<size_t>(bounded < last_step_ ? bounded : last_step_)];
  }

 private:
  std::vector<float> levels_;     // by code, rising
  std::vector<uint8_t> nearest_;  // code by step
  float lowest_;                  // level, at step 0
  float last_step_;
};

// One row's attempt at a block.
struct Attempt {
  uint8_t codes[kColumnGroup];
  float errors[kColumnGroup];
  float loss;
};

// Takes `error`, column j's, from the columns after j.
void subtract_after(int64_t j, float error, const float* factor_row, int64_t columns,
                    float* values) {
  for (int64_t i = j + 1; i < columns; ++i) values[i] -= error * factor_row[i];
}

void round_row(const Grid& grid, const FeedbackBlock& block, const float* row, float scale,
               Attempt& attempt) {
  float values[kColumnGroup];
  std::copy_n(row, block.columns, values);
  const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
  attempt.loss = 0;
  for (int64_t j = 0; j < block.columns; ++j) {
    const float* factor_row = block.factor + j * block.columns;
    const uint8_t code = grid.nearest(values[j] * inverse);
    const float error = (values[j] - grid.level(code) * scale) / factor_row[j];
    attempt.codes[j] = code;
    attempt.errors[j] = error;
    attempt.loss += error * error;
    subtract_after(j, error, factor_row, block.columns, values);
  }
}

// values * F^-1 for the block F of the factor: its squares add up to the loss of leaving them out.
void whiten(const FeedbackBlock& block, float* values, float* out) {
  for (int64_t j = 0; j < block.columns; ++j) {
    const float* factor_row = block.factor + j * block.columns;
    out[j] = values[j] / factor_row[j];
    subtract_after(j, out[j], factor_row, block.columns, values);
  }
}

// The scale s that minimises |white - s * levels * F^-1|^2: least squares with one unknown.
float scale_for(const Grid& grid, const FeedbackBlock& block, const float* white,
                const uint8_t* codes) {
  float levels[kColumnGroup], white_levels[kColumnGroup];
  for (int64_t j = 0; j < block.columns; ++j) levels[j] = grid.level(codes[j]);
  whiten(block, levels, white_levels);
  float dot = 0, squares = 0;
  for (int64_t j = 0; j < block.columns; ++j) {
    dot += white[j] * white_levels[j];
    squares += white_levels[j] * white_levels[j];
  }
  return squares > 0 ? dot / squares : 0.0f;
}

void quantise_row(const Grid& grid, const FeedbackBlock& block, int64_t index) {
  constexpr int kRefits = 2;
  const float* row = block.values + index * block.columns;
  float values[kColumnGroup], white[kColumnGroup];
  std::copy_n(row, block.columns, values);
  whiten(block, values, white);

  const float unit = block.units[index / kRowBlock];
  float scale = round_scale(block.format, block.first_scales[index], unit);
  Attempt best;
  round_row(grid, block, row, scale, best);
  float best_scale = scale;
  for (int refit = 0; refit < kRefits; ++refit) {
    const float next = round_scale(block.format, scale_for(grid, block, white, best.codes), unit);
    if (next == scale) break;
    scale = next;
    Attempt attempt;
    round_row(grid, block, row, scale, attempt);
    if (!(attempt.loss < best.loss)) break;
    best = attempt;
    best_scale = scale;
  }
  std::copy_n(best.codes, block.columns, block.codes + index * block.columns);
  std::copy_n(best.errors, block.columns, block.errors + index * block.columns);
  block.scales[index] = best_scale;
}

}  // namespace

void feed_back(const FeedbackBlock& block, ThreadPool& pool) {
  const Grid grid(block.format);
  constexpr int64_t kRowsPerTask = 64;
  pool.run(divide_up(block.rows, kRowsPerTask), [&](int64_t task, int) {
    const int64_t end = std::min(block.rows, (task + 1) * kRowsPerTask);
    for (int64_t row = task * kRowsPerTask; row < end; ++row) quantise_row(grid, block, row);
  });
}

}  // namespace pythia_rt
