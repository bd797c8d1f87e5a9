// The test extension _testing: every kernel of every ISA over plain numpy arrays, and clocks around
// them (testing/timing.cc). Never in a wheel.
//
// Buffers are as large as the kernels may touch and no larger, so that the sanitizers see a step
// beyond. Arrays of a wrong shape are a mistake of the test: ValueError, without much prose.
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "backend/cpu.h"
#include "base/thread_pool.h"
#include "bindings/arrays.h"
#include "cuda/cuda.h"
#include "engine/token_stats.h"
#include "formats/formats.h"
#include "formats/kv_formats.h"
#include "forward/rope_table.h"
#include "kernels/dispatch.h"
#include "testing/backends.h"
#include "testing/threads.h"
#include "testing/timing.h"

namespace pythia_rt {

namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Bytes = py::array_t<uint8_t, py::array::c_style>;
using Codes = std::tuple<py::array_t<int8_t>, py::array_t<float>, py::array_t<int32_t>>;

// A matrix unit reads whole tiles of rows (kernels/table.h).
constexpr int64_t kUnitRows = 16;

void check(bool ok, const char* what) {
  if (!ok) throw_invalid("_testing: ", what);
}

// [rows][columns] as the kernels want it: the stride a multiple of 64, zero beyond the columns.
struct PaddedRows {
  explicit PaddedRows(const Floats& values) {
    check(values.ndim() == 2, "rows must have two dimensions");
    count = values.shape(0);
    width = values.shape(1);
    stride = round_up(width, kColumnGroup);
    data.assign(static_cast<size_t>(count * stride), 0.0f);
    for (int64_t row = 0; row < count; ++row) {
      std::copy_n(values.data() + row * width, width, data.data() + row * stride);
    }
  }
  int64_t count, width, stride;
  std::vector<float> data;
};

std::vector<float> padded_vector(const Floats& values, int64_t width) {
  check(values.ndim() == 1 && values.size() == width, "a vector has the wrong length");
  std::vector<float> padded(static_cast<size_t>(round_up(width, kRowBlock)), 0.0f);
  std::copy_n(values.data(), width, padded.data());
  return padded;
}

// The first `width` values of each row of `stride`.
FloatArray without_padding(const std::vector<float>& rows, int64_t count, int64_t width,
                           int64_t stride) {
  FloatArray out({count, width});
  for (int64_t row = 0; row < count; ++row) {
    std::copy_n(rows.data() + row * stride, width, out.mutable_data() + row * width);
  }
  return out;
}

struct QuantisedBuffers {
  QuantisedBuffers(const KernelTable& table, const PaddedRows& in)
      : groups(in.stride / kColumnGroup),
        stride((groups | 1) * kColumnGroup),
        codes(static_cast<size_t>(round_up(in.count, kUnitRows) * stride), int8_t{0}),
        scales(static_cast<size_t>(round_up(in.count, kUnitRows) * groups)),
        sums(scales.size()) {
    table.quantise({in.data.data(), in.stride, groups, rows(), 0, in.count});
  }
  QuantisedRows rows() { return {codes.data(), stride, scales.data(), sums.data()}; }

  int64_t groups, stride;
  std::vector<int8_t> codes;
  std::vector<float> scales;
  std::vector<int32_t> sums;
};

// codes [n, padded columns], scales [n, groups], sums [n, groups].
Codes quantise(const std::string& isa, const Floats& values) {
  const PaddedRows in(values);
  QuantisedBuffers out(kernels_for(isa), in);
  py::array_t<int8_t> codes({in.count, in.stride});
  for (int64_t row = 0; row < in.count; ++row) {
    std::copy_n(out.codes.data() + row * out.stride, in.stride,
                codes.mutable_data() + row * in.stride);
  }
  const std::vector<py::ssize_t> shape = {in.count, out.groups};
  return {codes, py::array_t<float>(shape, out.scales.data()),
          py::array_t<int32_t>(shape, out.sums.data())};
}

std::vector<Bytes> pack_matrix(const std::string& isa, const std::string& format,
                               const Floats& matrix) {
  check(matrix.ndim() == 2, "a matrix must have two dimensions");
  const Format tag = format_from_name(format);
  const int64_t rows = matrix.shape(0), columns = matrix.shape(1);
  std::vector<Bytes> arrays;
  std::vector<void*> parts;
  for (const PackedPart& part : packed_layout(tag, rows, columns)) {
    arrays.emplace_back(static_cast<py::ssize_t>(part.bytes));
    parts.push_back(arrays.back().mutable_data());
  }
  ThreadPool pool(1);
  pack(tag, {SourceType::f32, matrix.data(), rows, columns}, parts, kernels_for(isa).fit_scales,
       pool);
  return arrays;
}

// out [n, rows] = epilogue(in [n, columns] * matrix^T + bias); `before` is what "add" adds to. The
// work is done in pieces of `step` blocks of outputs, as threads would.
FloatArray linear(const std::string& isa, const std::string& format,
                  const std::vector<Bytes>& parts, int64_t rows, int64_t columns,
                  const Floats& values, const std::string& epilogue,
                  const std::optional<Floats>& bias, const std::optional<Floats>& before,
                  int64_t step) {
  const KernelTable& table = kernels_for(isa);
  const PaddedRows in(values);
  Matrix matrix;
  matrix.format = format_from_name(format);
  matrix.rows = rows;
  matrix.columns = columns;
  matrix.table = format_table(matrix.format);
  const std::vector<PackedPart> layout = packed_layout(matrix.format, rows, columns);
  check(in.width == columns && step > 0, "the rows do not fit the matrix");
  check(parts.size() == layout.size(), "the matrix has the wrong number of parts");
  for (size_t i = 0; i < parts.size(); ++i) {
    check(static_cast<size_t>(parts[i].size()) == layout[i].bytes, "a part has the wrong size");
  }
  std::vector<const void*> pointers;
  for (const Bytes& part : parts) pointers.push_back(part.data());
  bind_parts(layout, pointers, matrix);
  std::vector<float> padded_bias;
  if (bias) {
    padded_bias = padded_vector(*bias, rows);
    matrix.bias = padded_bias.data();
  }
  const int64_t out_stride = round_up(rows, kColumnGroup);
  std::vector<float> out(static_cast<size_t>(in.count * out_stride), 0.0f);
  if (before) {
    const PaddedRows first(*before);
    check(first.count == in.count && first.width == rows, "what is added to has the wrong shape");
    out = first.data;
  }
  LinearArguments arguments{};
  arguments.matrix = &matrix;
  arguments.in = in.data.data();
  arguments.in_stride = in.stride;
  arguments.out = out.data();
  arguments.out_stride = out_stride;
  arguments.epilogue = epilogue_named(epilogue);
  arguments.row_end = in.count;
  std::vector<uint8_t> panel(static_cast<size_t>(table.linear_panel_bytes(matrix, in.count)));
  arguments.panel = panel.data();
  QuantisedBuffers quantised(table, in);
  arguments.quantised = quantised.rows();
  for (int64_t block = 0; block < matrix.row_blocks(); block += step) {
    arguments.block_begin = block;
    arguments.block_end = std::min(block + step, matrix.row_blocks());
    table.linear[static_cast<int>(matrix.format)](arguments);
  }
  return without_padding(out, in.count, rows, out_stride);
}

// A layer norm, or without a bias an RMS norm.
FloatArray norm(const std::string& isa, const Floats& values, const Floats& weight,
                const std::optional<Floats>& bias, float epsilon) {
  const KernelTable& table = kernels_for(isa);
  const PaddedRows in(values);
  const std::vector<float> padded_weight = padded_vector(weight, in.width);
  std::vector<float> padded_bias;
  if (bias) padded_bias = padded_vector(*bias, in.width);
  std::vector<float> out(in.data.size(), 0.0f);
  (bias ? table.layer_norm : table.rms_norm)({in.data.data(), padded_weight.data(),
                                              bias ? padded_bias.data() : nullptr, out.data(),
                                              in.width, in.stride, epsilon, 0, in.count});
  return without_padding(out, in.count, in.width, in.stride);
}

// heads [n_heads, head_dim] with all of them rotated by the angles [rotary_dim / 2].
FloatArray rotate(const std::string& isa, const Floats& heads, const Floats& cosines,
                  const Floats& sines) {
  check(heads.ndim() == 2 && cosines.size() == sines.size(), "heads or angles have a wrong shape");
  const int64_t count = heads.shape(0), head_dim = heads.shape(1);
  const int64_t rotary_dim = 2 * cosines.size();
  check(rotary_dim <= head_dim, "more angles than the head has pairs");
  std::vector<float> row(heads.data(), heads.data() + heads.size());
  for (int64_t head = 0; head < count; ++head) {
    kernels_for(isa).rotate({row.data(), cosines.data(), sines.data(), rotary_dim, head_dim, head});
  }
  return without_padding(row, count, head_dim, head_dim);
}

// The cosines and sines [positions, rotary_dim / 2] of a model's table, which grows meanwhile.
std::pair<FloatArray, FloatArray> rope_table(const Floats& frequencies, float factor,
                                             const std::vector<int64_t>& positions) {
  const auto backend = make_cpu_backend(kernels_for("scalar"), 1);
  const int64_t half = frequencies.size();
  Spec spec;
  spec.rotary_dim = 2 * half;
  spec.rope_factor = factor;
  RopeTable table(*backend, spec, frequencies.data());
  for (const int64_t position : positions) table.reach(position + 1);
  FloatArray cosines({static_cast<int64_t>(positions.size()), half}), sines(cosines.request());
  for (size_t i = 0; i < positions.size(); ++i) {
    const auto row = static_cast<int64_t>(i);
    std::copy_n(table.cosines() + positions[i] * half, half, cosines.mutable_data(row, 0));
    std::copy_n(table.sines() + positions[i] * half, half, sines.mutable_data(row, 0));
  }
  return {cosines, sines};
}

// The parts of a KvHead with room for `capacity` positions: keys, values and both scales.
std::vector<Bytes> empty_head(KvFormat format, int64_t dim, int64_t capacity) {
  const KvSizes sizes = kv_sizes(format, dim, capacity);
  std::vector<Bytes> parts;
  for (const int64_t bytes : {sizes.keys, sizes.values, sizes.scales, sizes.scales}) {
    parts.emplace_back(bytes);
    std::fill_n(parts.back().mutable_data(), bytes, uint8_t{0xff});  // NaN, or the code -1
  }
  return parts;
}

// Parts that a test gave, if they have the sizes.
KvHead head_of(std::vector<Bytes>& parts, KvFormat format, int64_t dim, int64_t capacity) {
  const KvSizes sizes = kv_sizes(format, dim, capacity);
  check(parts.size() == 4 && parts[0].size() == sizes.keys && parts[1].size() == sizes.values &&
            parts[2].size() == sizes.scales && parts[3].size() == sizes.scales,
        "the parts of a cache have wrong sizes");
  return {parts[0].mutable_data(), parts[1].mutable_data(),
          reinterpret_cast<uint16_t*>(parts[2].mutable_data()),
          reinterpret_cast<uint16_t*>(parts[3].mutable_data())};
}

// One head: keys and values [n, head_dim] go into its cache from position `first` on. Returns the
// cache's parts, new ones unless some are given; those are changed.
std::vector<Bytes> append(const std::string& isa, const std::string& kv_format, const Floats& keys,
                          const Floats& values, int64_t first, int64_t capacity,
                          std::optional<std::vector<Bytes>> given) {
  check(keys.ndim() == 2 && values.ndim() == 2 && keys.size() == values.size() &&
            keys.shape(1) == values.shape(1),
        "keys and values must be two equal matrices");
  const int64_t count = keys.shape(0), dim = keys.shape(1);
  capacity = round_up(capacity, 16);
  check(first >= 0 && first + count <= capacity, "no room for as many positions");
  const KvFormat format = kv_format_from_name(kv_format);
  std::vector<Bytes> parts = given ? *given : empty_head(format, dim, capacity);
  const KvHead cache = head_of(parts, format, dim, capacity);
  for (int64_t i = 0; i < count; ++i) {
    kernels_for(isa).append[static_cast<size_t>(format)](
        {keys.data() + i * dim, values.data() + i * dim, cache, dim, first + i});
  }
  return parts;
}

// A head of append() as attention reads it: in pages.
class PagedCopy {
 public:
  PagedCopy(std::vector<Bytes>& parts, KvFormat format, int64_t dim, int64_t capacity)
      : layout_(page_layout(format, dim, 1, 1)) {
    const KvSizes& sizes = layout_.head;
    for (int64_t begin = 0; begin < capacity; begin += kPagePositions) {
      std::vector<std::byte>& page = memory_.emplace_back(layout_.bytes(), std::byte{0xff});
      const int64_t n = std::min(kPagePositions, capacity - begin);
      std::byte* out = page.data();
      size_t part = 0;
      for (const int64_t bytes : {sizes.keys, sizes.values, sizes.scales, sizes.scales}) {
        const int64_t each = bytes / kPagePositions;
        std::memcpy(out, parts[part++].data() + begin * each, static_cast<size_t>(n * each));
        out += bytes;
      }
      pages_.push_back(page.data());
    }
  }

  PagedHead head() const { return KvPages{pages_.data(), layout_}.head(0, 0); }

 private:
  PageLayout layout_;
  std::deque<std::vector<std::byte>> memory_;
  std::vector<std::byte*> pages_;
};

// Queries [n, group, head_dim], of the last n of `positions`, attend to a cache of append(),
// `together` at a time. Returns [n, group, head_dim].
FloatArray attention(const std::string& isa, const std::string& kv_format, const Floats& queries,
                     std::vector<Bytes> parts, int64_t positions, int64_t capacity, float scale,
                     int64_t together, int64_t window, const std::optional<Floats>& bias) {
  check(queries.ndim() == 3, "not three dimensions");
  const KernelTable& table = kernels_for(isa);
  const KvFormat format = kv_format_from_name(kv_format);
  const int64_t rows = queries.shape(0), group = queries.shape(1), dim = queries.shape(2);
  capacity = round_up(capacity, 16);
  check(rows <= positions && positions <= capacity && together > 0,
        "queries and cache do not fit each other");
  check(!bias || (bias->ndim() == 2 && bias->shape(0) == group && bias->shape(1) >= positions),
        "a bias of another shape");
  head_of(parts, format, dim, capacity);  // checks their sizes
  const PagedCopy cache(parts, format, dim, capacity);
  std::vector<float> scratch(static_cast<size_t>(attention_scratch(dim)));
  FloatArray out({rows, group, dim});
  AttentionArguments arguments{};
  arguments.queries = queries.data();
  arguments.query_stride = group * dim;
  arguments.cache = cache.head();
  arguments.head_dim = dim;
  arguments.group = group;
  arguments.first_position = positions - rows;
  arguments.window = window;
  arguments.scale = scale;
  arguments.bias = bias ? bias->data() : nullptr;
  arguments.bias_positions = bias ? bias->shape(1) : 0;
  arguments.scratch = scratch.data();
  arguments.out = out.mutable_data();
  arguments.out_stride = group * dim;
  for (int64_t row = 0; row < rows * group; row += together) {
    arguments.row_begin = row;
    arguments.row_end = std::min(rows * group, row + together);
    table.attention[static_cast<size_t>(format)](arguments);
  }
  return out;
}

// (largest, sum of e^(logit - largest)) of logits [n], run by run.
std::tuple<float, float> softmax_sum(const std::string& isa, const Floats& logits) {
  const KernelTable& table = kernels_for(isa);
  std::vector<float> run_largest, run_sums;
  for (int64_t begin = 0; begin < logits.size(); begin += kSoftmaxRun) {
    table.softmax_run(logits.data() + begin, std::min(kSoftmaxRun, logits.size() - begin),
                      &run_largest.emplace_back(), &run_sums.emplace_back());
  }
  float largest = 0, sum = 0;
  table.softmax_merge(run_largest.data(), run_sums.data(), static_cast<int64_t>(run_sums.size()),
                      &largest, &sum);
  return {largest, sum};
}

// (log-probability, entropy, rank, likeliest token) of logits [n] at a token.
std::tuple<float, double, int32_t, int32_t> stats_of(const std::string& isa, const Floats& logits,
                                                     int32_t token) {
  check(token >= 0 && token < logits.size(), "the token is one of the logits'");
  const TokenStats found = token_stats(kernels_for(isa), logits.data(), logits.size(), token);
  return {found.log_probability, found.entropy, found.rank, found.likeliest};
}

// The scales [16] for one group of a block of 16 rows [16, 64]: over a rising table of 16 bytes, or
// without one over the whole numbers from -offset on.
FloatArray fit_group(const std::string& isa, const Floats& values,
                     const std::optional<Bytes>& table, int offset,
                     const std::optional<Floats>& importance, float first_factor,
                     float last_factor) {
  check(values.ndim() == 2 && values.shape(0) == kRowBlock && values.shape(1) == kColumnGroup,
        "a group has 16 x 64 values");
  check(!table || table->size() == 16, "a table has 16 entries");
  check(!importance || importance->size() == kColumnGroup, "a group has 64 columns");
  std::vector<float> transposed(static_cast<size_t>(values.size()));
  for (int64_t row = 0; row < kRowBlock; ++row) {
    for (int64_t column = 0; column < kColumnGroup; ++column) {
      transposed[static_cast<size_t>(column * kRowBlock + row)] =
          values.data()[row * kColumnGroup + column];
    }
  }
  FloatArray scales(static_cast<py::ssize_t>(kRowBlock));
  kernels_for(isa).fit_scales({transposed.data(), importance ? importance->data() : nullptr,
                               table ? table->data() : nullptr, offset, first_factor, last_factor,
                               scales.mutable_data()});
  return scales;
}

}  // namespace

PYBIND11_MODULE(_testing, module) {
  module.doc() = "The kernels of pythia_rt by ISA, for its tests.";
  module.def("isa_names", &supported_isas);
  module.def("format_names", [] {
    std::vector<std::string> names;
    for (int i = 0; i < kFormatCount; ++i) names.emplace_back(format_name(static_cast<Format>(i)));
    return names;
  });
  module.def("pack", &pack_matrix, py::arg("isa"), py::arg("format"), py::arg("matrix"));
  module.def("quantise", &quantise, py::arg("isa"), py::arg("values"));
  module.def("linear", &linear, py::arg("isa"), py::arg("format"), py::arg("parts"),
             py::arg("rows"), py::arg("columns"), py::arg("values"), py::kw_only(),
             py::arg("epilogue") = "store", py::arg("bias") = py::none(),
             py::arg("before") = py::none(), py::arg("step") = int64_t{1} << 40);
  module.def("norm", &norm, py::arg("isa"), py::arg("values"), py::arg("weight"), py::arg("bias"),
             py::arg("epsilon"));
  module.def("rope_table", &rope_table, py::arg("frequencies"), py::arg("factor"),
             py::arg("positions"));
  module.def("rotate", &rotate, py::arg("isa"), py::arg("heads"), py::arg("cosines"),
             py::arg("sines"));
  module.def("kv_format_names", &kv_format_names);
  module.def("append", &append, py::arg("isa"), py::arg("kv_format"), py::arg("keys"),
             py::arg("values"), py::kw_only(), py::arg("first") = 0, py::arg("capacity"),
             py::arg("parts") = py::none());
  module.def("attention", &attention, py::arg("isa"), py::arg("kv_format"), py::arg("queries"),
             py::arg("parts"), py::kw_only(), py::arg("positions"), py::arg("capacity"),
             py::arg("scale"), py::arg("together"), py::arg("window") = 0,
             py::arg("bias") = py::none());
  module.def("softmax_sum", &softmax_sum, py::arg("isa"), py::arg("logits"));
  module.def("token_stats", &stats_of, py::arg("isa"), py::arg("logits"), py::arg("token"));
  module.def("fit_scales", &fit_group, py::arg("isa"), py::arg("values"), py::kw_only(),
             py::arg("table") = py::none(), py::arg("offset"), py::arg("importance") = py::none(),
             py::arg("first_factor"), py::arg("last_factor"));
  bind_backends(module);
  module.def("cuda_unavailable", &cuda_unavailable);
  bind_threads(module);
  bind_timing(module);
}

}  // namespace pythia_rt
