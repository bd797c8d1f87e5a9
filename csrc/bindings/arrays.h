// Conversions between Python's objects and the core's plain types.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>

#include "base/error.h"
#include "model/weights.h"

namespace pythia_rt {

namespace py = pybind11;

using TokenArray = py::array_t<int32_t, py::array::c_style>;
using MaskArray = py::array_t<uint32_t, py::array::c_style>;
using FloatArray = py::array_t<float, py::array::c_style>;

// The bytes of a contiguous buffer; the view keeps it alive.
inline Blob blob_of(const py::buffer_info& view) {
  py::ssize_t expected = view.itemsize;
  for (py::ssize_t axis = view.ndim - 1; axis >= 0; --axis) {
    const auto i = static_cast<size_t>(axis);
    if (view.shape[i] > 1 && view.strides[i] != expected) {
      throw_invalid("a buffer must be contiguous in memory");
    }
    expected *= view.shape[i];
  }
  return {view.ptr, static_cast<size_t>(view.size * view.itemsize)};
}

inline int64_t count_tokens(const TokenArray& tokens) {
  if (tokens.ndim() != 1) throw_invalid("tokens must be a one-dimensional array of int32");
  return tokens.size();
}

}  // namespace pythia_rt
