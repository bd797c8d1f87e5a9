// Memory of Python objects that a C++ object goes on reading.
#pragma once

#include <pybind11/pybind11.h>

#include <deque>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "model/weights.h"

namespace pythia_rt {

// Keeps buffers, and the objects that they belong to, alive. To let go of a mapped file makes
// Python give its lock away and take it back, so not by pybind11's buffer_info in a destructor.
class HeldBuffers {
 public:
  HeldBuffers() = default;
  ~HeldBuffers() {
    may_take_gil([this] {
      for (Py_buffer& view : views_) PyBuffer_Release(&view);
    });
  }
  HeldBuffers(const HeldBuffers&) = delete;
  HeldBuffers& operator=(const HeldBuffers&) = delete;

  // The bytes of a contiguous buffer. Throws std::invalid_argument for any other.
  Blob add(const py::buffer& buffer) {
    Py_buffer view;
    if (PyObject_GetBuffer(buffer.ptr(), &view, PyBUF_STRIDES | PyBUF_FORMAT) != 0) {
      throw py::error_already_set();
    }
    views_.push_back(view);
    blobs_.push_back(blob_of(py::buffer_info(&views_.back(), false)));
    return blobs_.back();
  }

  const std::deque<Blob>& blobs() const { return blobs_; }

 private:
  std::deque<Py_buffer> views_;  // a deque: their addresses stay
  std::deque<Blob> blobs_;
};

}  // namespace pythia_rt
