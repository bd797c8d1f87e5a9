#include "formats/formats.h"

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/cpu_count.h"
#include "base/thread_pool.h"
#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/module.h"
#include "bindings/source.h"
#include "formats/kv_formats.h"
#include "kernels/dispatch.h"

namespace pythia_rt {

namespace {

using Part = std::tuple<std::string, std::string, std::vector<int64_t>>;
using ByteArray = py::array_t<uint8_t>;

std::vector<Part> layout(const std::string& format, int64_t rows, int64_t columns) {
  std::vector<Part> parts;
  for (const PackedPart& part : packed_layout(format_from_name(format), rows, columns)) {
    parts.emplace_back(part.name, part.type, part.shape);
  }
  return parts;
}

const float* factors_of(const std::optional<FloatArray>& factors, int64_t count, const char* of) {
  if (!factors) return nullptr;
  if (factors->ndim() != 1 || factors->size() != count) {
    throw_invalid("there is one factor for each ", of, ", ", count, " of them");
  }
  return factors->data();
}

std::vector<ByteArray> pack_buffer(const std::string& format_name, const py::buffer& source,
                                   const std::string& dtype, int64_t rows, int64_t columns,
                                   int threads, const std::optional<FloatArray>& row_factors,
                                   const std::optional<FloatArray>& column_factors) {
  const Format format = format_from_name(format_name);
  const py::buffer_info view = source.request();
  const std::vector<PackedPart> layout = packed_layout(format, rows, columns);
  SourceMatrix matrix = source_of(view, dtype, rows, columns);
  matrix.row_factors = factors_of(row_factors, rows, "row");
  matrix.column_factors = factors_of(column_factors, columns, "column");
  std::vector<ByteArray> arrays;
  std::vector<void*> parts;
  for (const PackedPart& part : layout) {
    arrays.emplace_back(static_cast<py::ssize_t>(part.bytes));
    parts.push_back(arrays.back().mutable_data());
  }
  {
    const GilRelease release;
    ThreadPool pool(threads == 0 ? default_thread_count() : threads);
    pack(format, matrix, parts, selected_kernels().fit_scales, pool);
  }
  return arrays;
}

FloatArray unpack_buffers(const std::string& format_name, const std::vector<py::buffer>& parts,
                          int64_t rows, int64_t columns) {
  Matrix matrix;
  matrix.format = format_from_name(format_name);
  matrix.rows = rows;
  matrix.columns = columns;
  const std::vector<PackedPart> layout = packed_layout(matrix.format, rows, columns);
  if (parts.size() != layout.size()) {
    throw_invalid("a ", format_name, " matrix has ", layout.size(), " parts, not ", parts.size());
  }
  std::vector<py::buffer_info> views;
  std::vector<const void*> pointers;
  for (size_t i = 0; i < parts.size(); ++i) {
    views.push_back(parts[i].request());
    const Blob blob = blob_of(views.back());
    if (blob.size != layout[i].bytes) {
      throw_invalid("the part '", layout[i].name, "' has ", blob.size, " bytes, not ",
                    layout[i].bytes);
    }
    pointers.push_back(blob.data);
  }
  bind_parts(layout, pointers, matrix);
  FloatArray values({rows, columns});
  float* out = values.mutable_data();
  const GilRelease release;
  for (int64_t row = 0; row < rows; ++row) unpack_row(matrix, row, out + row * columns);
  return values;
}

// A matrix of values and its scales, with shapes that fit each other.
void check_scales(const FloatArray& scales, int64_t rows, int64_t columns) {
  if (scales.ndim() != 2 || scales.shape(0) != rows ||
      scales.shape(1) != divide_up(columns, kColumnGroup)) {
    throw_invalid("scales of a ", rows, " x ", columns, " matrix are ", rows, " x ",
                  divide_up(columns, kColumnGroup));
  }
}

void check_matrix(const py::array& values) {
  if (values.ndim() != 2 || values.size() == 0) throw_invalid("a matrix has two dimensions");
}

std::pair<FloatArray, FloatArray> fit_matrix(const std::string& format_name,
                                             const FloatArray& values,
                                             const std::optional<FloatArray>& importance,
                                             int threads) {
  const Format format = format_from_name(format_name);
  check_matrix(values);
  const int64_t rows = values.shape(0), columns = values.shape(1);
  if (importance) {
    bool valid = importance->size() == columns;
    for (int64_t i = 0; valid && i < columns; ++i) {
      valid = importance->data()[i] >= 0 && importance->data()[i] <= 1e30f;
    }
    if (!valid) throw_invalid("importance is one number from 0 to 1e30 for each column");
  }
  FloatArray scales({rows, divide_up(columns, kColumnGroup)});
  FloatArray units(static_cast<py::ssize_t>(divide_up(rows, kRowBlock)));
  float* scale_data = scales.mutable_data();
  float* unit_data = units.mutable_data();
  const float* weights = importance ? importance->data() : nullptr;
  const GilRelease release;
  ThreadPool pool(threads == 0 ? default_thread_count() : threads);
  fit_scales(format, values.data(), rows, columns, weights, selected_kernels().fit_scales, pool,
             scale_data, unit_data);
  return {std::move(scales), std::move(units)};
}

ByteArray encode_matrix(const std::string& format_name, const FloatArray& values,
                        const FloatArray& scales) {
  check_matrix(values);
  const int64_t rows = values.shape(0), columns = values.shape(1);
  check_scales(scales, rows, columns);
  ByteArray codes({rows, columns});
  encode(format_from_name(format_name), values.data(), scales.data(), rows, columns,
         codes.mutable_data());
  return codes;
}

std::vector<ByteArray> pack_coded(
    const std::string& format_name,
    const py::array_t<uint8_t, py::array::c_style | py::array::forcecast>& codes,
    const FloatArray& scales, const FloatArray& units) {
  check_matrix(codes);
  const int64_t rows = codes.shape(0), columns = codes.shape(1);
  check_scales(scales, rows, columns);
  if (units.size() != divide_up(rows, kRowBlock)) {
    throw_invalid("there is one unit for each ", kRowBlock, " rows");
  }
  const Format format = format_from_name(format_name);
  std::vector<ByteArray> arrays;
  std::vector<void*> parts;
  for (const PackedPart& part : packed_layout(format, rows, columns)) {
    arrays.emplace_back(static_cast<py::ssize_t>(part.bytes));
    parts.push_back(arrays.back().mutable_data());
  }
  pack_codes(format, codes.data(), scales.data(), units.data(), rows, columns, parts);
  return arrays;
}

}  // namespace

void bind_formats(py::module_& module) {
  module.def(
      "format_names",
      [] {
        std::vector<std::string> names;
        for (int i = 0; i < kFormatCount; ++i)
          names.emplace_back(format_name(static_cast<Format>(i)));
        return names;
      },
      "Names of the weight formats.");
  module.def("kv_format_names", &kv_format_names, "Names of the formats of the KV cache.");
  module.def(
      "bits_per_weight",
      [](const std::string& format) { return bits_per_weight(format_from_name(format)); },
      py::arg("format"), "Stored bits per weight, scales included, padding not.");
  module.def("packed_layout", &layout, py::arg("format"), py::arg("rows"), py::arg("columns"),
             "The stored tensors of a matrix: (part, safetensors type, shape) each, in order.\n\n"
             "Raises ValueError for an unknown format or a shape that cannot be packed.");
  module.def(
      "pack", &pack_buffer, py::arg("format"), py::arg("source"), py::arg("dtype"), py::arg("rows"),
      py::arg("columns"), py::arg("threads") = 0, py::kw_only(),
      py::arg("row_factors") = py::none(), py::arg("column_factors") = py::none(),
      "Packs a row-major matrix of 'F32', 'F16' or 'BF16' values: the bytes of each part.\n\n"
      "Each value is multiplied by the factor of its column and then of its row, where there are\n"
      "any, float32 [columns] and [rows].\n\n"
      "Rows may be packed in chunks whose sizes are multiples of 16, and each part's bytes\n"
      "joined. Raises ValueError that names the place of a value that is not finite or too\n"
      "large for the format.");
  module.def(
      "fit_scales", &fit_matrix, py::arg("format"), py::arg("values"),
      py::arg("importance") = py::none(), py::arg("threads") = 0,
      "Scales [rows, groups of 64 columns] that suit float32 values [rows, columns], rounded to\n"
      "what the format stores, and units [row_blocks]. `importance` [columns] weighs the squared\n"
      "errors. Quantised formats only: ValueError for others.");
  module.def("encode", &encode_matrix, py::arg("format"), py::arg("values"), py::arg("scales"),
             "The nearest code of each value, uint8 [rows, columns], given scales of fit_scales.");
  module.def(
      "levels", [](const std::string& format) { return levels(format_from_name(format)); },
      py::arg("format"), "What each code of a quantised format stands for: value = level * scale.");
  module.def("pack_codes", &pack_coded, py::arg("format"), py::arg("codes"), py::arg("scales"),
             py::arg("units"),
             "Packs codes [rows, columns] with scales and units of fit_scales: the bytes of each\n"
             "part, as `pack` gives them.");
  module.def("unpack", &unpack_buffers, py::arg("format"), py::arg("parts"), py::arg("rows"),
             py::arg("columns"), "The values [rows, columns] of a packed matrix, as float32.");
}

}  // namespace pythia_rt
