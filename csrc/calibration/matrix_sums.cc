#include "calibration/matrix_sums.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <vector>

#include "base/rounding.h"

namespace pythia_rt {

namespace {

constexpr int kAtOnce = 4;  // rows that are added to the columns in one pass over these

// Four lanes, whatever the processor: the order of additions depends on it.
using Lanes = float __attribute__((vector_size(16)));
constexpr int64_t kLanes = sizeof(Lanes) / sizeof(float);

Lanes load(const float* values) {
  Lanes lanes;
  std::memcpy(&lanes, values, sizeof lanes);
  return lanes;
}

// The sum of a * b: of every four vectors the last comes first.
float dot(const float* a, const float* b, int64_t count) {
  Lanes sum{};
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    for (int64_t at = i + 3 * kLanes; at >= i; at -= kLanes) sum += load(a + at) * load(b + at);
  }
  for (; i + kLanes <= count; i += kLanes) sum += load(a + i) * load(b + i);
  for (int64_t lane = 0; i + lane < count; ++lane) sum[lane] += a[i + lane] * b[i + lane];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// The sum of up to 128 values in eight lanes, of more by halves: it loses little.
double add_pairwise(const float* values, int64_t count) {
  constexpr int64_t kMost = 128, kWide = 8;
  if (count > kMost) {
    const int64_t half = count / 2 / kWide * kWide;
    return add_pairwise(values, half) + add_pairwise(values + half, count - half);
  }
  std::array<double, kWide> lanes{};
  int64_t i = 0;
  for (; i + kWide <= count; i += kWide) {
    for (int64_t lane = 0; lane < kWide; ++lane) {
      lanes[static_cast<size_t>(lane)] += static_cast<double>(values[i + lane]);
    }
  }
  double sum = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
               ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
  for (; i < count; ++i) sum += static_cast<double>(values[i]);
  return sum;
}

// The sum of a * b over a row, in segments.
class RowDot {
 public:
  explicit RowDot(int64_t columns)
      : segment_(std::gcd(columns, int64_t{kSumSegment})),
        pieces_(static_cast<size_t>(columns / segment_)) {}

  double operator()(const float* a, const float* b) {
    int64_t at = 0;
    for (float& piece : pieces_) {
      piece = dot(a + at, b + at, segment_);
      at += segment_;
    }
    return add_pairwise(pieces_.data(), static_cast<int64_t>(pieces_.size()));
  }

 private:
  int64_t segment_;
  std::vector<float> pieces_;
};

// Adds `count` rows of squares, each times its weight, to `out`, one after the other.
void add_rows(const float* squares, const float* weights, int64_t count, int64_t columns,
              float* out) {
  int64_t row = 0;
  for (; row + kAtOnce <= count; row += kAtOnce) {
    const float* of = squares + row * columns;
    const float w0 = weights[row], w1 = weights[row + 1];
    const float w2 = weights[row + 2], w3 = weights[row + 3];
    for (int64_t i = 0; i < columns; ++i) {
      const float first = (out[i] + of[i] * w0) + of[columns + i] * w1;
      out[i] = (first + of[2 * columns + i] * w2) + of[3 * columns + i] * w3;
    }
  }
  for (; row < count; ++row) {
    for (int64_t i = 0; i < columns; ++i) out[i] += squares[row * columns + i] * weights[row];
  }
}

}  // namespace

void add_up(const SourceMatrix& source, const MatrixSums& sums) {
  const int64_t columns = source.columns;
  const int64_t most = std::min<int64_t>(kSumRows, source.rows);
  std::vector<float> values(static_cast<size_t>(columns));
  std::vector<float> squares(static_cast<size_t>(most * columns));
  RowDot sum(columns);
  for (int64_t first = 0; first < source.rows; first += kSumRows) {
    const int64_t count = std::min<int64_t>(kSumRows, source.rows - first);
    std::array<float, kSumRows> weights;
    for (int64_t i = 0; i < count; ++i) {
      read_row(source, first + i, values.data());
      float* squared = squares.data() + i * columns;
      const float* row = values.data();
      for (int64_t j = 0; j < columns; ++j) squared[j] = row[j] * row[j];
      const double found = sum(squared, sums.gain);
      sums.rows[first + i] = found;
      if (sums.shift != nullptr) sums.shifted[first + i] = sum(row, sums.shift);
      const double weight = !sums.relative ? 1.0 : found > kLeastSum ? 1.0 / found : 0.0;
      weights[static_cast<size_t>(i)] = static_cast<float>(weight);
    }
    float* out = sums.columns + first / kSumRows * columns;
    std::fill_n(out, columns, 0.0f);
    add_rows(squares.data(), weights.data(), count, columns, out);
  }
}

}  // namespace pythia_rt
