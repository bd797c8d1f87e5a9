// Edits of a pass as Python holds them.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/bound_model.h"
#include "forward/edits.h"

namespace pythia_rt {

using NumberArray = py::array_t<int64_t, py::array::c_style>;

struct BoundEdits {
  std::shared_ptr<BoundModel> model;
  Edits edits;
};

// The edits of texts of a model, each given a BoundEdits or None. Throws std::invalid_argument for
// those of another model.
std::vector<const Edits*> edits_of(const std::vector<py::object>& texts, const Model& model);

// An array as Python gave it, or a sentence that names `what`.
template <typename Array>
Array array_of(const py::handle& given, int64_t n_dimensions, const char* what) {
  if (!py::isinstance<Array>(given) || py::cast<Array>(given).ndim() != n_dimensions) {
    throw_invalid(what, " must be a contiguous array of ", n_dimensions,
                  n_dimensions == 1 ? " dimension of " : " dimensions of ",
                  std::string(py::str(Array().dtype())));
  }
  return py::cast<Array>(given);
}

// The numbers of an array, which increase from 0 on and are below `end`.
std::vector<int64_t> increasing(const NumberArray& numbers, int64_t end, const char* what);

}  // namespace pythia_rt
