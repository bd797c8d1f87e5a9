// Matrix products in every format.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/half.h"
#include "formats/formats.h"
#include "guarded.h"
#include "kernel_checks.h"
#include "random.h"

namespace pythia_rt::conformance {

namespace {

struct LinearShape {
  int64_t outputs, columns, rows;
};

// A matrix unit reads whole tiles of rows (kernels/table.h), whatever stands beyond the last row.
constexpr int64_t kUnitRows = 16;

// Those of GPT-NeoX.
const std::vector<Epilogue> kEpilogues = {Epilogue::store, Epilogue::add, Epilogue::gelu,
                                          Epilogue::gelu_tanh};

std::vector<Epilogue> other_activations() {
  std::vector<Epilogue> others;
#define ITEM(name)                                                                           \
  if (std::find(kEpilogues.begin(), kEpilogues.end(), Epilogue::name) == kEpilogues.end()) { \
    others.push_back(Epilogue::name);                                                        \
  }
  PYTHIA_RT_ACTIVATIONS(ITEM)
#undef ITEM
  return others;
}

// What the bytes of quantised weights and activations are drawn from.
enum class Values { random, extreme };

int64_t scale_bytes(Format format, const LinearShape& shape) {
  const std::vector<PackedPart> layout = packed_layout(format, shape.outputs, shape.columns);
  return layout.size() > 1 ? static_cast<int64_t>(layout[1].bytes) : 0;
}

// One matrix product with all its memory; every buffer ends at an unmapped page.
class LinearCase {
 public:
  LinearCase(Format format, LinearShape shape, Values values, uint64_t seed)
      : random_(seed),
        shape_(shape),
        stride_(round_up(shape.columns, 64) + (shape.rows % 2 == 0 ? 64 : 0)),
        out_stride_(round_up(shape.outputs, 64)),
        groups_(divide_up(shape.columns, kColumnGroup)),
        code_stride_((groups_ | 1) * kColumnGroup),
        weight_(static_cast<int64_t>(packed_layout(format, shape.outputs, shape.columns)[0].bytes)),
        scales_(scale_bytes(format, shape)),
        units_(divide_up(shape.outputs, 16)),
        bias_(round_up(shape.outputs, 16)),
        in_(shape.rows * stride_),
        codes_(round_up(shape.rows, kUnitRows) * code_stride_),
        code_scales_(round_up(shape.rows, kUnitRows) * groups_),
        code_sums_(round_up(shape.rows, kUnitRows) * groups_),
        out_(shape.rows * out_stride_) {
    matrix_.format = format;
    matrix_.rows = shape.outputs;
    matrix_.columns = shape.columns;
    matrix_.weight = weight_.data();
    matrix_.table = format_table(format);
    fill_weights(values);
    fill_activations(values);
  }

  int64_t blocks() const { return matrix_.row_blocks(); }
  int64_t rows() const { return shape_.rows; }
  void set_bias(bool wanted) { matrix_.bias = wanted ? bias_.data() : nullptr; }

  // Runs the product for some rows and blocks, over outputs that held 0.5, 1.5, 2.5, ...
  std::vector<float> run(const KernelTable& table, Epilogue epilogue, int64_t row_begin,
                         int64_t row_end, int64_t block_begin, int64_t block_end) {
    for (int64_t i = 0; i < out_.size(); ++i) out_[i] = before(i);
    const Guarded<uint8_t> panel(table.linear_panel_bytes(matrix_, row_end - row_begin));
    LinearArguments arguments{};
    arguments.matrix = &matrix_;
    arguments.in = in_.data();
    arguments.quantised = {codes_.data(), code_stride_, code_scales_.data(), code_sums_.data()};
    arguments.in_stride = stride_;
    arguments.out = out_.data();
    arguments.out_stride = out_stride_;
    arguments.epilogue = epilogue;
    arguments.row_begin = row_begin;
    arguments.row_end = row_end;
    arguments.block_begin = block_begin;
    arguments.block_end = block_end;
    arguments.panel = panel.data();
    table.linear[static_cast<int>(matrix_.format)](arguments);
    return {out_.data(), out_.end()};
  }
  std::vector<float> run(const KernelTable& table, Epilogue epilogue) {
    return run(table, epilogue, 0, shape_.rows, 0, blocks());
  }

  std::string compare_with_truth(const std::vector<float>& found, Epilogue epilogue) const;

  static float before(int64_t index) { return static_cast<float>(index % 7) + 0.5f; }
  int64_t out_stride() const { return out_stride_; }

 private:
  void fill_weights(Values values);
  void fill_activations(Values values);

  Random random_;
  LinearShape shape_;
  int64_t stride_, out_stride_, groups_, code_stride_;
  Guarded<uint8_t> weight_;
  Guarded<uint8_t> scales_;
  Guarded<float> units_;
  Guarded<float> bias_, in_;
  Guarded<int8_t> codes_;
  Guarded<float> code_scales_;
  Guarded<int32_t> code_sums_;
  Guarded<float> out_;
  Matrix matrix_;
};

void LinearCase::fill_weights(Values values) {
  for (int64_t i = 0; i < bias_.size(); ++i) bias_[i] = random_.normal();
  if (!is_quantised(matrix_.format)) {
    const int64_t size = matrix_.format == Format::f32 ? 4 : 2;
    for (int64_t i = 0; i < weight_.size() / size; ++i) {
      const float value = 0.2f * random_.normal();
      const uint16_t half =
          matrix_.format == Format::f16 ? half_from_float(value) : bfloat_from_float(value);
      const void* stored = size == 4 ? static_cast<const void*>(&value) : &half;
      std::memcpy(weight_.data() + i * size, stored, static_cast<size_t>(size));
    }
    return;
  }
  matrix_.scales = scales_.data();
  if (matrix_.format == Format::q8) {
    for (int64_t i = 0; i < scales_.size(); i += 2) {
      const uint16_t half = half_from_float(0.02f * random_.normal());
      std::memcpy(scales_.data() + i, &half, sizeof half);
    }
  } else {
    matrix_.units = units_.data();
    for (int64_t i = 0; i < units_.size(); ++i) units_[i] = 1e-5f * (0.1f + random_.uniform());
    for (int64_t i = 0; i < scales_.size(); ++i) {
      scales_[i] = static_cast<uint8_t>(random_.integer(-127, 127));
    }
  }
  const int64_t pattern = random_.integer(0, 2);  // all low, all high, alternating
  for (int64_t i = 0; i < weight_.size(); ++i) {
    const bool high = pattern == 2 ? i % 2 == 0 : pattern == 1;
    if (matrix_.format != Format::q8) {
      weight_[i] = static_cast<uint8_t>(values == Values::random ? random_.bits() : high ? 255 : 0);
    } else {
      weight_[i] = static_cast<uint8_t>(values == Values::random ? random_.integer(1, 255)
                                        : high                   ? 255
                                                                 : 1);
    }
  }
}

void LinearCase::fill_activations(Values values) {
  const int64_t pattern = random_.integer(0, 2);
  for (int64_t row = 0; row < shape_.rows; ++row) {
    for (int64_t i = 0; i < shape_.columns; ++i) {
      const bool negative = pattern == 2 ? i % 2 == 0 : pattern == 1;
      const int64_t extreme = negative ? -127 : 127;
      const int64_t code = values == Values::random ? random_.integer(-127, 127) : extreme;
      in_[row * stride_ + i] = random_.normal();
      codes_[row * code_stride_ + i] = static_cast<int8_t>(code);
      code_sums_[row * groups_ + i / kColumnGroup] += static_cast<int32_t>(code);
    }
  }
  for (int64_t i = 0; i < code_scales_.size(); ++i) {
    const bool is_padding = i >= shape_.rows * groups_;
    code_scales_[i] = is_padding ? std::nanf("") : 0.01f + random_.uniform();
  }
  for (int64_t i = shape_.rows * code_stride_; i < codes_.size(); ++i) codes_[i] = -128;
}

// The bound: a sum over groups of sums over 64 columns errs by groups + 64 roundings of its terms'
// magnitudes at most; the bias, the addition and the two activations add a few more.
std::string LinearCase::compare_with_truth(const std::vector<float>& found,
                                           Epilogue epilogue) const {
  const bool quantised = is_quantised(matrix_.format);
  std::vector<float> weights(static_cast<size_t>(shape_.columns));
  for (int64_t output = 0; output < shape_.outputs; ++output) {
    unpack_row(matrix_, output, weights.data());
    for (int64_t row = 0; row < shape_.rows; ++row) {
      double sum = 0, magnitude = 0;
      for (int64_t i = 0; i < shape_.columns; ++i) {
        const double scale = code_scales_[row * groups_ + i / kColumnGroup];
        const double x =
            quantised ? codes_[row * code_stride_ + i] * scale : in_[row * stride_ + i];
        const double product = static_cast<double>(weights[static_cast<size_t>(i)]) * x;
        sum += product;
        magnitude += std::fabs(product);
      }
      const int64_t index = row * out_stride_ + output;
      if (matrix_.bias != nullptr) sum += static_cast<double>(matrix_.bias[output]);
      double tolerance = kUnit * (static_cast<double>(groups_ + 70) * magnitude + std::fabs(sum));
      if (epilogue == Epilogue::add) sum += static_cast<double>(before(index));
#define ACTIVATE(name) \
  if (epilogue == Epilogue::name) sum = exact_##name(sum);
      PYTHIA_RT_ACTIVATIONS(ACTIVATE)
#undef ACTIVATE
      tolerance = 1.2 * tolerance + 16 * kUnit * (1 + std::fabs(sum));  // gelu' is below 1.2
      const std::string problem = distance(&found[static_cast<size_t>(index)], &sum, 1, tolerance);
      if (!problem.empty()) return text("row ", row, " output ", output, " ", problem);
    }
  }
  return "";
}

// Every cut of the work must leave the same bits in its part of the output and nothing elsewhere.
std::string compare_parts(LinearCase& work, const KernelTable& table, Random& random) {
  const std::vector<float> whole = work.run(table, Epilogue::store);
  for (int cut = 0; cut < 3; ++cut) {
    const int64_t row_begin = random.integer(0, work.rows() - 1);
    // The first cut is a single row, as in decoding; row_begin stays 0 otherwise, since the matrix
    // unit reads whole tiles of rows from there.
    const int64_t first = cut == 0 ? row_begin : 0;
    const int64_t last = cut == 0 ? row_begin + 1 : random.integer(1, work.rows());
    const int64_t block_begin = random.integer(0, work.blocks() - 1);
    const int64_t block_end = random.integer(block_begin + 1, work.blocks());
    const std::vector<float> part =
        work.run(table, Epilogue::store, first, last, block_begin, block_end);
    std::vector<float> expected(part.size());
    for (size_t i = 0; i < part.size(); ++i) {
      const int64_t index = static_cast<int64_t>(i);
      const int64_t row = index / work.out_stride(), block = index % work.out_stride() / kRowBlock;
      const bool inside = row >= first && row < last && block >= block_begin && block < block_end;
      expected[i] = inside ? whole[i] : LinearCase::before(index);
    }
    const std::string problem =
        difference(part.data(), expected.data(), static_cast<int64_t>(part.size()));
    if (!problem.empty()) {
      return text("rows ", first, "..", last, " blocks ", block_begin, "..", block_end, " ",
                  problem);
    }
  }
  return "";
}

void check_format(Format format, const std::vector<Epilogue>& epilogues, const std::string& name,
                  const KernelTable& table, const KernelTable& scalar, Checks& checks) {
  static constexpr LinearShape kShapes[] = {{1, 1, 1},     {16, 64, 2},   {17, 65, 3},
                                            {80, 100, 5},  {33, 130, 13}, {130, 256, 1},
                                            {100, 200, 7}, {64, 192, 40}, {48, 320, 70}};
  std::string equality, truth, parts;
  Random random(3);
  uint64_t seed = 4;
  for (const LinearShape& shape : kShapes) {
    for (const Values values : {Values::random, Values::extreme}) {
      if (values == Values::extreme && !is_quantised(format)) continue;
      LinearCase work(format, shape, values, seed++);
      for (const Epilogue epilogue : epilogues) {
        work.set_bias(seed % 2 == 0 || epilogue == Epilogue::gelu);
        const std::string where = text(shape.outputs, " x ", shape.columns, ", ", shape.rows,
                                       " rows, epilogue ", static_cast<int>(epilogue), ": ");
        const std::vector<float> found = work.run(table, epilogue);
        const std::vector<float> expected = work.run(scalar, epilogue);
        const auto count = static_cast<int64_t>(found.size());
        checks.fold(found.data(), count);
        std::string problem = difference(found.data(), expected.data(), count);
        if (equality.empty() && !problem.empty()) equality = where + problem;
        problem = work.compare_with_truth(found, epilogue);
        if (truth.empty() && !problem.empty()) truth = where + problem;
      }
      if (parts.empty()) parts = compare_parts(work, table, random);
    }
  }
  checks.report(name + " equals scalar", equality);
  checks.report(name + " is accurate", truth);
  checks.report(name + " does not depend on how it is cut", parts);
}

}  // namespace

double exact_gelu(double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }

double exact_gelu_tanh(double x) {
  const double u = std::sqrt(2.0 / std::acos(-1.0)) * (x + 0.044715 * x * x * x);
  return x / (1.0 + std::exp(-2.0 * u));
}

double exact_silu(double x) { return std::isinf(x) && x < 0 ? 0.0 : x / (1.0 + std::exp(-x)); }

double exact_relu(double x) { return x > 0 ? x : 0.0; }

void check_linear(const KernelTable& table, const KernelTable& scalar, Checks& checks) {
  for (int format = 0; format < kFormatCount; ++format) {
    const auto form = static_cast<Format>(format);
    check_format(form, kEpilogues, text("linear ", format_name(form)), table, scalar, checks);
  }
}

void check_other_activations(const KernelTable& table, const KernelTable& scalar, Checks& checks) {
  for (int format = 0; format < kFormatCount; ++format) {
    const auto form = static_cast<Format>(format);
    const std::string name = text("linear ", format_name(form), " of other models");
    check_format(form, other_activations(), name, table, scalar, checks);
  }
}

}  // namespace pythia_rt::conformance
