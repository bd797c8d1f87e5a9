#include "bindings/edits.h"

#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <algorithm>
#include <string>
#include <utility>

#include "bindings/module.h"
#include "bindings/python_hook.h"

namespace pythia_rt {

namespace {

using EditItem = py::typing::Tuple<py::object, py::ellipsis>;

// KeyboardInterrupt and the like, which are no Exception of Python's.
struct PythonInterruption : py::error_already_set, Interruption {
  explicit PythonInterruption(const py::error_already_set& raised)
      : py::error_already_set(raised) {}
};

// Made and destroyed with the lock, called without it.
class PythonFunction : public RowFunction {
 public:
  explicit PythonFunction(py::object function) : function_(std::move(function)) {}

  void change(float* values, const std::vector<int64_t>& shape, const int64_t* positions) override {
    const GilAcquire lock;
    // Copies: the objects outlive the call if somebody keeps them.
    FloatArray rows(shape, values);
    if (!called(rows, NumberArray(shape[0], positions)).is_none()) {
      throw_invalid("the function of an edit changes its rows in place, and returns None");
    }
    std::copy_n(static_cast<const FloatArray&>(rows).data(), rows.size(), values);
  }

 private:
  py::object called(const FloatArray& rows, const NumberArray& positions) const {
    try {
      return function_(rows, positions);
    } catch (const py::error_already_set& raised) {
      if (raised.matches(PyExc_Exception)) throw;
      throw PythonInterruption(raised);
    }
  }

  py::object function_;
};

std::vector<float> floats_of(const py::handle& given, const char* what) {
  if (!py::isinstance<FloatArray>(given)) {
    throw_invalid(what, " of an edit must be a contiguous array of float32");
  }
  const auto array = py::cast<FloatArray>(given);
  return {array.data(), array.data() + array.size()};
}

void add(BoundEdits& bound, const py::tuple& item) {
  if (item.size() != 4 && item.size() != 5) {
    throw_invalid("an edit is (point, layer, positions or None, scale, shift) or (point, layer, ",
                  "positions or None, function)");
  }
  const Place place{point_from_name(item[0].cast<std::string>()), item[1].cast<int64_t>()};
  Edit edit;
  if (!item[2].is_none()) {
    const auto positions = array_of<NumberArray>(item[2], 1, "the positions of an edit");
    edit.positions = std::vector<int64_t>(positions.data(), positions.data() + positions.size());
  }
  if (item.size() == 5) {
    edit.scale = floats_of(item[3], "the scale");
    edit.shift = floats_of(item[4], "the shift");
  } else {
    if (PyCallable_Check(item[3].ptr()) == 0)
      throw_invalid("the function of an edit is no function");
    edit.function = std::make_shared<PythonFunction>(item[3]);
  }
  bound.edits.add(bound.model->model->spec(), place, std::move(edit));
}

}  // namespace

std::vector<const Edits*> edits_of(const std::vector<py::object>& texts, const Model& model) {
  std::vector<const Edits*> edits;
  for (const py::object& text : texts) {
    edits.push_back(nullptr);
    if (text.is_none()) continue;
    if (!py::isinstance<BoundEdits>(text)) throw_invalid("the edits of a text are Edits or None");
    const auto& bound = text.cast<const BoundEdits&>();
    if (bound.model->model.get() != &model) throw_invalid("the edits are another model's");
    edits.back() = &bound.edits;
  }
  return edits;
}

std::vector<int64_t> increasing(const NumberArray& numbers, int64_t end, const char* what) {
  int64_t before = -1;
  for (py::ssize_t i = 0; i < numbers.size(); ++i) {
    const int64_t number = numbers.data()[i];
    if (number <= before || number >= end) {
      throw_invalid(what, " are below ", end, " and increase: ", number, " cannot come after ",
                    before);
    }
    before = number;
  }
  return {numbers.data(), numbers.data() + numbers.size()};
}

void bind_edits(py::module_& module) {
  py::class_<BoundEdits>(module, "Edits", py::module_local(),
                         "Changes to the values at points of a model, in one text.")
      .def(
          py::init(
              [](const std::shared_ptr<BoundModel>& model, const std::vector<EditItem>& items) {
                auto bound = std::make_unique<BoundEdits>(BoundEdits{model, {}});
                for (const EditItem& item : items) add(*bound, item);
                return bound;
              }),
          py::arg("model"), py::arg("items"),
          "In this order. An item is (point, layer, positions, scale, shift): x becomes\n"
          "scale * x + shift, float32 [width] both, and shift also [positions, width]; where the\n"
          "scale is 0 nothing is left of x. Or (point, layer, positions, function):\n"
          "function(rows, positions) is called in each pass for the text's rows, float32\n"
          "[n, width], writable, at positions int64 [n], and changes them in place; what it\n"
          "raises stops the run.\n\n"
          "The layer is -1 for a point in none. `positions` of the text, int64, increase; None:\n"
          "all of them. Raises ValueError for what the model does not have and what does not fit.");
}

}  // namespace pythia_rt
