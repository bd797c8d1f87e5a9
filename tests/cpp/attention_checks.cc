// The kernels of one attention head: append to the cache, attend to it.
#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/half.h"
#include "guarded.h"
#include "kernel_checks.h"
#include "random.h"

namespace pythia_rt::conformance {

namespace {

struct HeadShape {
  int64_t head_dim, first_position, rows;
  float sharpness;  // of the scores: large ones make most weights vanish
};

// Keys, values and queries of one head. Memory that no position was written to holds NaN.
class HeadCase {
 public:
  HeadCase(KvFormat format, HeadShape shape, uint64_t seed)
      : format_(format),
        shape_(shape),
        positions_(shape.first_position + shape.rows),
        capacity_(round_up(positions_, 16)),
        padded_(round_up(shape.head_dim, 16)),
        keys_(positions_ * shape.head_dim),
        values_(positions_ * shape.head_dim),
        queries_(shape.rows * shape.head_dim) {
    Random random(seed);
    for (int64_t i = 0; i < keys_.size(); ++i) keys_[i] = random.normal();
    for (int64_t i = 0; i < values_.size(); ++i) values_[i] = random.normal();
    for (int64_t i = 0; i < queries_.size(); ++i) queries_[i] = shape.sharpness * random.normal();
  }

  // Appends all positions, then attends with `together` rows at a time.
  std::vector<float> run(const KernelTable& table, int64_t together) const {
    const int64_t size = format_ == KvFormat::f16 ? 2 : 4;
    const Guarded<uint8_t> key_memory(capacity_ * shape_.head_dim * size);
    const Guarded<uint8_t> value_memory(capacity_ * padded_ * size);
    std::memset(key_memory.data(), 0xff, static_cast<size_t>(key_memory.size()));
    std::memset(value_memory.data(), 0xff, static_cast<size_t>(value_memory.size()));
    const KvHead cache{key_memory.data(), value_memory.data()};
    const auto format = static_cast<int>(format_);
    for (int64_t position = 0; position < positions_; ++position) {
      const int64_t offset = position * shape_.head_dim;
      table.append[format](
          {keys_.data() + offset, values_.data() + offset, cache, shape_.head_dim, position});
    }
    const Guarded<float> scores(kQueryTile * capacity_), out(shape_.rows * shape_.head_dim);
    for (int64_t row = 0; row < shape_.rows; row += together) {
      AttentionArguments arguments{};
      arguments.queries = queries_.data() + row * shape_.head_dim;
      arguments.query_stride = shape_.head_dim;
      arguments.cache = cache;
      arguments.head_dim = shape_.head_dim;
      arguments.first_position = shape_.first_position + row;
      arguments.rows = std::min(together, shape_.rows - row);
      arguments.scale = scale();
      arguments.scores = scores.data();
      arguments.scores_stride = capacity_;
      arguments.out = out.data() + row * shape_.head_dim;
      arguments.out_stride = shape_.head_dim;
      table.attention[format](arguments);
    }
    return {out.data(), out.end()};
  }

  std::string compare_with_truth(const std::vector<float>& found) const;

 private:
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)); }
  double cached(float value) const {
    return format_ == KvFormat::f16 ? float_from_half(half_from_float(value)) : value;
  }

  KvFormat format_;
  HeadShape shape_;
  int64_t positions_, capacity_, padded_;
  Guarded<float> keys_, values_, queries_;
};

// The bound: an error e in every score changes each weight by a factor e^(+-2e) at most; scores
// err by head_dim roundings of their terms' magnitudes, sums over n positions by n.
std::string HeadCase::compare_with_truth(const std::vector<float>& found) const {
  const int64_t dim = shape_.head_dim;
  for (int64_t row = 0; row < shape_.rows; ++row) {
    const int64_t n = shape_.first_position + row + 1;
    std::vector<double> weights(static_cast<size_t>(n));
    double top = -HUGE_VAL, sum = 0, magnitude = 0;
    for (int64_t position = 0; position < n; ++position) {
      double score = 0, terms = 0;
      for (int64_t i = 0; i < dim; ++i) {
        const double product = cached(keys_[position * dim + i]) * queries_[row * dim + i];
        score += product;
        terms += std::fabs(product);
      }
      weights[static_cast<size_t>(position)] = score * scale();
      top = std::fmax(top, score * scale());
      magnitude = std::fmax(magnitude, terms * scale());
    }
    for (double& weight : weights) sum += weight = std::exp(weight - top);
    const double error =
        kUnit * (static_cast<double>(dim + 4) * magnitude + static_cast<double>(n) + 32);
    for (int64_t i = 0; i < dim; ++i) {
      double truth = 0, largest = 0;
      for (int64_t position = 0; position < n; ++position) {
        const double value = cached(values_[position * dim + i]);
        truth += weights[static_cast<size_t>(position)] / sum * value;
        largest = std::fmax(largest, std::fabs(value));
      }
      const std::string problem =
          distance(&found[static_cast<size_t>(row * dim + i)], &truth, 1, 3 * error * largest);
      if (!problem.empty()) return text("row ", row, " column ", i, " ", problem);
    }
  }
  return "";
}

void check_cache_format(KvFormat format, const KernelTable& table, const KernelTable& scalar,
                        Checks& checks) {
  static constexpr HeadShape kShapes[] = {
      {64, 0, 1, 1.0f},   {64, 15, 1, 1.0f},  {64, 130, 1, 30.0f}, {32, 0, 21, 1.0f},
      {80, 5, 12, 1.0f},  {128, 63, 4, 1.0f}, {256, 30, 3, 1.0f},  {20, 17, 9, 100.0f},
      {16, 255, 6, 1.0f}, {1, 3, 5, 1.0f}};
  std::string equality, truth, parts;
  uint64_t seed = 8;
  for (const HeadShape& shape : kShapes) {
    const HeadCase work(format, shape, seed++);
    const std::string where = text("head of ", shape.head_dim, ", ", shape.rows, " rows after ",
                                   shape.first_position, ": ");
    const std::vector<float> found = work.run(table, shape.rows);
    const std::vector<float> expected = work.run(scalar, shape.rows);
    const auto count = static_cast<int64_t>(found.size());
    checks.fold(found.data(), count);
    std::string problem = difference(found.data(), expected.data(), count);
    if (equality.empty() && !problem.empty()) equality = where + problem;
    problem = work.compare_with_truth(found);
    if (truth.empty() && !problem.empty()) truth = where + problem;
    for (const int64_t together : {1, 3, 7}) {
      problem = difference(work.run(table, together).data(), found.data(), count);
      if (parts.empty() && !problem.empty()) parts = where + problem;
    }
  }
  const std::string name =
      text("append and attention, ", format == KvFormat::f16 ? "f16" : "f32", " cache");
  checks.report(name + ", equal scalar", equality);
  checks.report(name + ", are accurate", truth);
  checks.report(name + ", do not depend on how the rows are cut", parts);
}

}  // namespace

void check_attention(const KernelTable& table, const KernelTable& scalar, Checks& checks) {
  check_cache_format(KvFormat::f16, table, scalar, checks);
  check_cache_format(KvFormat::f32, table, scalar, checks);
}

}  // namespace pythia_rt::conformance
