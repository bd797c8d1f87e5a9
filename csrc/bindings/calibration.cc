#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/cpu_count.h"
#include "base/thread_pool.h"
#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/held_buffers.h"
#include "bindings/module.h"
#include "bindings/source.h"
#include "bindings/spec.h"
#include "bindings/tensors.h"
#include "cache/kv_cache.h"
#include "calibration/error_feedback.h"
#include "calibration/matrix_sums.h"
#include "formats/formats.h"
#include "forward/activations.h"
#include "forward/decoder.h"
#include "forward/run_probe.h"
#include "model/placement.h"
#include "model/weights.h"

namespace pythia_rt {

namespace {

using DoubleArray = py::array_t<double, py::array::c_style>;
using CodeArray = py::array_t<uint8_t, py::array::c_style>;

std::tuple<CodeArray, FloatArray, FloatArray> feed_back_block(
    const std::string& format_name, const FloatArray& values, const FloatArray& factor,
    const FloatArray& first_scales, const FloatArray& units, int threads) {
  if (values.ndim() != 2 || values.shape(1) < 1 || values.shape(1) > kColumnGroup) {
    throw_invalid("values must be an array [rows, columns] of at most ", kColumnGroup, " columns");
  }
  const int64_t rows = values.shape(0), columns = values.shape(1);
  if (factor.ndim() != 2 || factor.shape(0) != columns || factor.shape(1) != columns) {
    throw_invalid("factor must be an array [", columns, ", ", columns, "]");
  }
  if (first_scales.size() != rows) throw_invalid("there is one scale for each row");
  if (units.size() != divide_up(rows, kRowBlock)) {
    throw_invalid("there is one unit for each ", kRowBlock, " rows");
  }
  const Format format = format_from_name(format_name);
  levels(format);  // throws for a format without any
  CodeArray codes({rows, columns});
  FloatArray scales(rows);
  FloatArray errors({rows, columns});
  const FeedbackBlock block{format,
                            rows,
                            columns,
                            values.data(),
                            factor.data(),
                            first_scales.data(),
                            units.data(),
                            codes.mutable_data(),
                            scales.mutable_data(),
                            errors.mutable_data()};
  {
    const GilRelease release;
    ThreadPool pool(threads == 0 ? default_thread_count() : threads);
    feed_back(block, pool);
  }
  return {codes, scales, errors};
}

std::tuple<DoubleArray, std::optional<DoubleArray>, FloatArray> add_up_matrix(
    const py::buffer& source, const std::string& dtype, const FloatArray& gain,
    const std::optional<FloatArray>& shift, bool relative) {
  const int64_t columns = gain.size();
  if (gain.ndim() != 1 || columns < 1) throw_invalid("gain must be an array [columns]");
  if (shift && (shift->ndim() != 1 || shift->size() != columns)) {
    throw_invalid("shift must be an array [", columns, "], as gain is");
  }
  const py::buffer_info view = source.request();
  const int64_t row_bytes = columns * source_type_bytes(source_type_from_name(dtype));
  const int64_t rows = view.size * view.itemsize / row_bytes;
  const SourceMatrix matrix = source_of(view, dtype, rows, columns);
  DoubleArray row_sums(rows);
  std::optional<DoubleArray> shifted;
  if (shift) shifted.emplace(rows);
  FloatArray column_sums({divide_up(rows, kSumRows), columns});
  const MatrixSums sums{gain.data(),
                        shift ? shift->data() : nullptr,
                        relative,
                        row_sums.mutable_data(),
                        shift ? shifted->mutable_data() : nullptr,
                        column_sums.mutable_data()};
  {
    const GilRelease release;
    add_up(matrix, sums);
  }
  return {row_sums, shifted, column_sums};
}

Spec one_layer(Spec spec) {
  validate(spec);
  if (spec.n_layers > 1 && !spec.windows.empty()) {
    throw_invalid("a layer alone is given a spec of one layer, with one window");
  }
  spec.n_layers = 1;
  return spec;
}

// The points where the inputs of a layer's matrices are.
std::vector<std::pair<const char*, Point>> inputs_of(Block block) {
  const auto with = [](Point qkv, Point mlp_up) {
    return std::vector<std::pair<const char*, Point>>{
        {"qkv", qkv}, {"attn_out", Point::z}, {"mlp_up", mlp_up}, {"mlp_down", Point::mlp_post}};
  };
  switch (block) {
    case Block::sequential:
    case Block::parallel:
      return with(Point::attn_norm, Point::mlp_norm);
    case Block::parallel_shared:
      return with(Point::attn_norm, Point::attn_norm);
    case Block::post:
    case Block::output:
      return with(Point::resid_pre, Point::resid_mid);
  }
  throw_invalid("there is no such block");
}

// A layer as a model that has no other, and the Python buffers that hold its weights; one thread at
// a time may run it.
class BoundLayer {
 public:
  BoundLayer(const py::dict& spec, const FormatNames& formats, const Buffers& tensors, int threads)
      : spec_(one_layer(spec_of(spec))),
        backend_(make_cpu(threads)),
        weights_(bind_layer(spec_, formats_of(formats), blobs_of(tensors, buffers_))),
        stages_{{backend_.get(), 0, 1}},
        decoder_(spec_, weights_, stages_),
        pool_(stages_, spec_.n_kv_heads, spec_.head_dim) {}

  std::pair<FloatArray, std::map<std::string, FloatArray>> run(const FloatArray& hidden,
                                                               bool capture) {
    if (hidden.ndim() != 2 || hidden.shape(1) != spec_.hidden_size) {
      throw_invalid("hidden must be an array [n, ", spec_.hidden_size, "] of float32");
    }
    const int64_t count = hidden.shape(0);
    if (count < 1 || count > spec_.max_positions) {
      throw_invalid("a sequence has between 1 and ", spec_.max_positions, " positions, not ",
                    count);
    }
    RunProbe probe(spec_, weights_, Editor({nullptr}),
                   Captures({{0, count, std::nullopt}}, false, nullptr),
                   PatternCaptures(spec_.n_heads, false, nullptr));
    probe.start_with({{hidden.data(), 0}});
    std::map<Point, FloatArray> arrays;  // one input may be that of two matrices
    const auto seen = [&](Point point) {
      const auto known = arrays.find(point);
      if (known != arrays.end()) return known->second;
      const Place place{point, 0};
      FloatArray array({count, facts_of(spec_, place).width});
      probe.captures().add(place, 0, array.mutable_data());
      return arrays.emplace(point, array).first->second;
    };
    FloatArray out = seen(Point::resid_post);
    std::map<std::string, FloatArray> inputs;
    if (capture) {
      for (const auto& [matrix, point] : inputs_of(spec_.block)) inputs[matrix] = seen(point);
    }
    const GilRelease release;
    const auto lock = claim(mutex_, "layer");
    // f32: what is measured is the weights, not the cache.
    KvCache cache(pool_, KvFormat::f32);
    cache.make_room(count);
    for (int64_t begin = 0; begin < count; begin += kMaxRows) {
      const int64_t n = std::min(kMaxRows, count - begin);
      probe.begin({{0, 0, n, begin}});
      decoder_.run({{&cache, nullptr, n}}, [&] { release.check_signals(); }, &probe);
    }
    return {out, inputs};
  }

 private:
  HeldBuffers buffers_;
  Spec spec_;
  std::unique_ptr<Backend> backend_;
  Weights weights_;
  Stages stages_;
  Decoder decoder_;
  PagePool pool_;
  ForkSafeMutex mutex_;
};

}  // namespace

void bind_calibration(py::module_& module) {
  py::class_<BoundLayer>(module, "Layer", "One layer of a model, to be run alone.")
      .def(py::init<const py::dict&, const FormatNames&, const Buffers&, int>(), py::arg("spec"),
           py::arg("formats"), py::arg("tensors"), py::kw_only(), py::arg("threads") = 0,
           "Takes a model's spec, one layer's tensors, whose names lack 'layers.{i}.', and the\n"
           "tables that every layer reads.\n\n"
           "Keeps the tensors alive. Raises ValueError that names what is wrong.")
      .def("run", &BoundLayer::run, py::arg("hidden"), py::kw_only(), py::arg("capture") = false,
           "What the layer makes of the residual stream [n, hidden_size] of a whole sequence.\n\n"
           "Second, when `capture`: the input [n, columns] of each matrix, by its name.");

  module.attr("SUM_ROWS") = kSumRows;
  module.def("add_up", &add_up_matrix, py::arg("source"), py::arg("dtype"), py::arg("gain"),
             py::arg("shift") = py::none(), py::kw_only(), py::arg("relative") = false,
             "Sums over the rows and columns of a row-major matrix W of 'F32', 'F16' or 'BF16'.\n\n"
             "`gain` and `shift` are float32 [columns]. Returns W^2 @ gain, float64 [rows];\n"
             "W @ shift likewise, or None; and for each SUM_ROWS rows the sums of W^2 over them,\n"
             "float32 [rows / SUM_ROWS, columns]. `relative`: of rows that were divided by the\n"
             "first; zeros where that is next to nothing. The order of additions is fixed.");

  module.def("feed_back", &feed_back_block, py::arg("format"), py::arg("values"), py::arg("factor"),
             py::arg("first_scales"), py::arg("units"), py::arg("threads") = 0,
             "Quantises a block of columns [rows, at most 64] with error feedback.\n\n"
             "`factor` is the block's part of U, where U'U is the inverse of X'X of the inputs X.\n"
             "`first_scales` [rows] and `units` [row_blocks] are as of fit_scales; each scale is\n"
             "refitted. Returns codes [rows, columns], scales [rows], and the errors\n"
             "[rows, columns]: later columns lose errors @ U[block, later].");
}

}  // namespace pythia_rt
