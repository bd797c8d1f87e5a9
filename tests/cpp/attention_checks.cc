// The kernels of one head of keys and values: append to the cache, attend to it.
#include <cmath>
#include <cstring>
#include <deque>
#include <vector>

#include "base/error.h"
#include "base/half.h"
#include "base/summation.h"
#include "formats/kv_formats.h"
#include "guarded.h"
#include "kernel_checks.h"
#include "random.h"

namespace pythia_rt::conformance {

namespace {

struct HeadShape {
  int64_t head_dim, first_position, positions;  // of queries
  float sharpness;     // of the scores: large ones make most weights vanish
  int64_t group = 1;   // heads of queries
  int64_t window = 0;  // 0: all
  float slope = 0;     // of the bias; 0: none

  int64_t rows() const { return positions * group; }
};

// Keys, values and queries of one head. Memory that no position was written to holds NaN.
class HeadCase {
 public:
  HeadCase(KvFormat format, HeadShape shape, uint64_t seed)
      : format_(format),
        shape_(shape),
        positions_(shape.first_position + shape.positions),
        keys_(positions_ * shape.head_dim),
        values_(positions_ * shape.head_dim),
        queries_(shape.rows() * shape.head_dim),
        bias_(shape.group * positions_) {
    Random random(seed);
    for (int64_t i = 0; i < keys_.size(); ++i) keys_[i] = random.normal();
    for (int64_t i = 0; i < values_.size(); ++i) values_[i] = random.normal();
    for (int64_t i = 0; i < queries_.size(); ++i) queries_[i] = shape.sharpness * random.normal();
    for (int64_t i = 0; i < bias_.size(); ++i) {
      const auto head = static_cast<float>(i / positions_ + 1);
      bias_[i] = shape.slope * static_cast<float>(i % positions_) / head;
    }
  }

  // Appends all positions, then attends with `together` rows at a time.
  std::vector<float> run(const KernelTable& table, int64_t together) const {
    const PageLayout layout = page_layout(format_, shape_.head_dim, 1, 1);
    std::deque<Guarded<uint8_t>> memory;
    std::vector<std::byte*> pages;
    for (int64_t i = 0; i < positions_; i += kPagePositions) {
      uint8_t* const page = memory.emplace_back(layout.bytes()).data();
      std::memset(page, 0xff, static_cast<size_t>(layout.bytes()));
      pages.push_back(reinterpret_cast<std::byte*>(page));
    }
    const PagedHead cache = KvPages{pages.data(), layout}.head(0, 0);
    const auto format = static_cast<int>(format_);
    for (int64_t position = 0; position < positions_; ++position) {
      const int64_t offset = position * shape_.head_dim;
      table.append[format]({keys_.data() + offset, values_.data() + offset,
                            head_in_page(cache, position / kPagePositions), shape_.head_dim,
                            position % kPagePositions});
    }
    const Guarded<float> scratch(attention_scratch(shape_.head_dim)),
        out(shape_.rows() * shape_.head_dim);
    for (int64_t row = 0; row < shape_.rows(); row += together) {
      AttentionArguments arguments{};
      arguments.queries = queries_.data();
      arguments.query_stride = shape_.group * shape_.head_dim;
      arguments.cache = cache;
      arguments.head_dim = shape_.head_dim;
      arguments.group = shape_.group;
      arguments.first_position = shape_.first_position;
      arguments.row_begin = row;
      arguments.row_end = std::min(shape_.rows(), row + together);
      arguments.window = shape_.window;
      arguments.scale = scale();
      arguments.bias = shape_.slope == 0 ? nullptr : bias_.data();
      arguments.bias_positions = positions_;
      arguments.scratch = scratch.data();
      arguments.out = out.data();
      arguments.out_stride = shape_.group * shape_.head_dim;
      table.attention[format](arguments);
    }
    return {out.data(), out.end()};
  }

  std::string compare_with_truth(const std::vector<float>& found) const;

 private:
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)); }
  std::vector<double> cached(const Guarded<float>& rows) const;

  KvFormat format_;
  HeadShape shape_;
  int64_t positions_;
  Guarded<float> keys_, values_, queries_, bias_;
};

// Each 16 values of a row of head_dim: whole multiples of largest / 127, rounded up to a bf16.
void round_to_bytes(double* row, int64_t head_dim) {
  for (int64_t begin = 0; begin < head_dim; begin += 16) {
    double* group = row + begin;
    const int64_t n = std::min<int64_t>(16, head_dim - begin);
    float largest = 0;
    for (int64_t i = 0; i < n; ++i) largest = std::fmax(largest, std::fabs(group[i]));
    const uint32_t bits = float_bits(largest / 127);
    const double scale = float_from_bfloat(static_cast<uint16_t>((bits + 0xffff) >> 16));
    for (int64_t i = 0; i < n; ++i) {
      group[i] = scale == 0 ? 0 : std::nearbyint(static_cast<float>(group[i] / scale)) * scale;
    }
  }
}

// What the cache makes of rows [positions][head_dim].
std::vector<double> HeadCase::cached(const Guarded<float>& rows) const {
  std::vector<double> result(rows.data(), rows.end());
  switch (format_) {
    case KvFormat::f32:
      break;
    case KvFormat::f16:
      for (double& value : result) {
        value = float_from_half(half_from_float(static_cast<float>(value)));
      }
      break;
    case KvFormat::q8:
      for (int64_t position = 0; position < positions_; ++position) {
        round_to_bytes(result.data() + position * shape_.head_dim, shape_.head_dim);
      }
      break;
  }
  return result;
}

// The bound: an error e in every score changes each weight by a factor e^(+-2e) at most; scores
// err by head_dim roundings of their terms' and their bias's magnitudes. A sum within a block adds
// up to 128 positions; each later block that is joined adds an exp, two products at most and a sum:
// less than 8 roundings.
std::string HeadCase::compare_with_truth(const std::vector<float>& found) const {
  const int64_t dim = shape_.head_dim;
  const std::vector<double> keys = cached(keys_), values = cached(values_);
  for (int64_t row = 0; row < shape_.rows(); ++row) {
    const int64_t n = shape_.first_position + row / shape_.group + 1;
    const int64_t first = shape_.window == 0 ? 0 : std::max<int64_t>(0, n - shape_.window);
    std::vector<double> weights(static_cast<size_t>(n));
    double top = -HUGE_VAL, sum = 0, magnitude = 0;
    for (int64_t position = first; position < n; ++position) {
      double score = 0, terms = 0;
      for (int64_t i = 0; i < dim; ++i) {
        const double product =
            keys[static_cast<size_t>(position * dim + i)] * queries_[row * dim + i];
        score += product;
        terms += std::fabs(product);
      }
      const double bias = bias_[row % shape_.group * positions_ + position];
      score = score * scale() + bias;
      weights[static_cast<size_t>(position)] = score;
      top = std::fmax(top, score);
      magnitude = std::fmax(magnitude, terms * scale() + std::fabs(bias));
    }
    for (int64_t position = first; position < n; ++position) {
      double& weight = weights[static_cast<size_t>(position)];
      sum += weight = std::exp(weight - top);
    }
    const int64_t additions = std::min(n, kAttentionBlock) + 8 * ((n - 1) / kAttentionBlock);
    const double error =
        kUnit * (static_cast<double>(dim + 4) * magnitude + static_cast<double>(additions) + 32);
    for (int64_t i = 0; i < dim; ++i) {
      double truth = 0, largest = 0;
      for (int64_t position = first; position < n; ++position) {
        const double value = values[static_cast<size_t>(position * dim + i)];
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

void check_cache_format(KvFormat format, const std::vector<HeadShape>& shapes,
                        const std::string& what, const KernelTable& table,
                        const KernelTable& scalar, Checks& checks) {
  std::string equality, truth, parts;
  uint64_t seed = 8;
  for (const HeadShape& shape : shapes) {
    const HeadCase work(format, shape, seed++);
    const std::string where = text("head of ", shape.head_dim, ", ", shape.rows(), " rows after ",
                                   shape.first_position, ": ");
    const std::vector<float> found = work.run(table, shape.rows());
    const std::vector<float> expected = work.run(scalar, shape.rows());
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
  const std::string name = text(what, kv_format_names()[static_cast<size_t>(format)], " cache");
  checks.report(name + ", equal scalar", equality);
  checks.report(name + ", are accurate", truth);
  checks.report(name + ", do not depend on how the rows are cut", parts);
}

void check_formats(const std::vector<HeadShape>& shapes, const std::string& what,
                   const KernelTable& table, const KernelTable& scalar, Checks& checks) {
  for (int format = 0; format < kKvFormatCount; ++format) {
    check_cache_format(static_cast<KvFormat>(format), shapes, what, table, scalar, checks);
  }
}

}  // namespace

void check_attention(const KernelTable& table, const KernelTable& scalar, Checks& checks) {
  // The last ones reach across the ends of blocks of 128 positions, and of 16 such blocks.
  static const std::vector<HeadShape> kShapes = {
      {64, 0, 1, 1.0f},   {64, 15, 1, 1.0f},    {64, 130, 1, 30.0f}, {32, 0, 21, 1.0f},
      {80, 5, 12, 1.0f},  {128, 63, 4, 1.0f},   {256, 30, 3, 1.0f},  {20, 17, 9, 100.0f},
      {16, 255, 6, 1.0f}, {1, 3, 5, 1.0f},      {40, 33, 6, 1.0f},   {72, 14, 5, 10.0f},
      {80, 125, 6, 1.0f}, {24, 381, 9, 100.0f}, {16, 2046, 5, 1.0f}, {8, 2300, 3, 30.0f}};
  check_formats(kShapes, "append and attention, ", table, scalar, checks);
}

void check_shared_attention(const KernelTable& table, const KernelTable& scalar, Checks& checks) {
  static const std::vector<HeadShape> kGroups = {{64, 130, 2, 1.0f, 8},  {20, 17, 3, 10.0f, 3},
                                                 {32, 126, 4, 1.0f, 5},  {80, 40, 1, 1.0f, 7},
                                                 {16, 2046, 3, 1.0f, 4}, {64, 60, 1, 1.0f, 71}};
  // Windows that begin within, at and next to the ends of blocks; of one position; of all.
  static const std::vector<HeadShape> kWindows = {
      {64, 300, 1, 1.0f, 1, 128}, {64, 255, 3, 1.0f, 1, 129},   {20, 250, 9, 10.0f, 1, 100},
      {40, 10, 6, 1.0f, 1, 1},    {16, 2300, 5, 1.0f, 1, 2050}, {24, 383, 3, 1.0f, 3, 256},
      {32, 5, 5, 1.0f, 1, 400},   {16, 2180, 4, 1.0f, 2, 5}};
  static const std::vector<HeadShape> kBiased = {{64, 130, 1, 1.0f, 1, 0, 0.5f},
                                                 {20, 250, 9, 10.0f, 3, 100, 0.01f},
                                                 {32, 0, 21, 1.0f, 1, 0, 3.0f},
                                                 {16, 2046, 3, 1.0f, 4, 0, 0.03f}};
  check_formats(kGroups, "attention of groups, ", table, scalar, checks);
  check_formats(kWindows, "attention with a window, ", table, scalar, checks);
  check_formats(kBiased, "attention with a bias, ", table, scalar, checks);
}

}  // namespace pythia_rt::conformance
