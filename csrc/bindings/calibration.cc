#include <pybind11/stl.h>

#include <string>
#include <tuple>

#include "base/cpu_count.h"
#include "base/thread_pool.h"
#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/module.h"
#include "calibration/error_feedback.h"
#include "formats/formats.h"

namespace pythia_rt {

namespace {

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

}  // namespace

void bind_calibration(py::module_& module) {
  module.def("feed_back", &feed_back_block, py::arg("format"), py::arg("values"), py::arg("factor"),
             py::arg("first_scales"), py::arg("units"), py::arg("threads") = 0,
             "Quantises a block of columns [rows, at most 64] with error feedback.\n\n"
             "`factor` is the block's part of U, where U'U is the inverse of X'X of the inputs X.\n"
             "`first_scales` [rows] and `units` [row_blocks] are as of fit_scales; each scale is\n"
             "refitted. Returns codes [rows, columns], scales [rows], and the errors\n"
             "[rows, columns]: later columns lose errors @ U[block, later].");
}

}  // namespace pythia_rt
