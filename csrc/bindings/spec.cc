#include "bindings/spec.h"

#include <pybind11/stl.h>

#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "bindings/module.h"
#include "model/layout.h"

namespace pythia_rt {

namespace py = pybind11;

namespace {

// Python's values as those of a field, or what no field accepts. A bool is no number, and a float
// no whole number, whatever its value.

int64_t whole_number(const Field& field, py::handle given) {
  if (!PyLong_CheckExact(given.ptr())) refuse(field);
  int overflow = 0;
  const int64_t value = PyLong_AsLongLongAndOverflow(given.ptr(), &overflow);
  return overflow == 0 ? value : std::numeric_limits<int64_t>::min();
}

void read(const Field& field, py::handle given, int64_t& out) { out = whole_number(field, given); }

void read(const Field& field, py::handle given, std::vector<int64_t>& out) {
  if (!PyList_CheckExact(given.ptr())) refuse(field);
  for (const py::handle one : given) out.push_back(whole_number(field, one));
}

void read(const Field& field, py::handle given, double& out) {
  if (!PyFloat_CheckExact(given.ptr()) && !PyLong_CheckExact(given.ptr())) refuse(field);
  out = PyFloat_AsDouble(given.ptr());
  if (PyErr_Occurred() != nullptr) {  // an integer beyond all floats
    PyErr_Clear();
    refuse(field);
  }
}

void read(const Field& field, py::handle given, float& out) {
  double value = 0;
  read(field, given, value);
  if (!(value < field.most)) refuse(field);  // or it might be none of a float's
  out = static_cast<float>(value);
}

void read(const Field& field, py::handle given, bool& out) {
  if (!PyBool_Check(given.ptr())) refuse(field);
  out = given.ptr() == Py_True;
}

void read(const Field& field, py::handle given, std::string& out) {
  if (!PyUnicode_Check(given.ptr())) refuse(field);
  try {
    out = given.cast<std::string>();
  } catch (const py::cast_error&) {  // half of a surrogate pair
    refuse(field);
  }
}

template <typename Choice>
std::enable_if_t<std::is_enum_v<Choice>> read(const Field& field, py::handle given, Choice& out) {
  std::string name;
  read(field, given, name);
  size_t index = 0;
  while (index < field.choices.size() && field.choices[index] != name) ++index;
  if (index == field.choices.size()) refuse(field);
  out = static_cast<Choice>(index);
}

const char* python_type(FieldType type) {
  switch (type) {
    case FieldType::text:
    case FieldType::choice:
      return "str";
    case FieldType::whole_number:
      return "int";
    case FieldType::whole_numbers:
      return "list[int]";
    case FieldType::number:
      return "float";
    case FieldType::flag:
      return "bool";
  }
  return "";
}

std::vector<Field> spec_fields() {
  std::vector<Field> found;
  const Spec spec;
  each_field(spec, [&](const Field& field, const auto&) { found.push_back(field); });
  return found;
}

bool is_field(const std::vector<Field>& fields, py::handle name) {
  for (const Field& field : fields) {
    if (name.equal(py::str(field.name))) return true;
  }
  return false;
}

}  // namespace

Spec spec_of(const py::dict& given) {
  Spec spec;
  each_field(spec, [&](const Field& field, auto& value) {
    if (!given.contains(field.name)) throw_invalid("it lacks the field '", field.name, "'");
    read(field, given[field.name], value);
  });
  const std::vector<Field> fields = spec_fields();
  for (const auto& [name, value] : given) {
    if (!is_field(fields, name)) {
      throw_invalid("it has an unknown field, ", std::string(py::repr(name)));
    }
  }
  validate(spec);
  return spec;
}

void bind_spec(py::module_& module) {
  py::class_<Field>(module, "SpecField", py::module_local(), "What may stand in a field of a spec.")
      .def_readonly("name", &Field::name, "Its key.")
      .def_readonly("what", &Field::what, "What it says of a model, in a few words.")
      .def_property_readonly(
          "type", [](const Field& self) { return python_type(self.type); },
          "As in an annotation: 'str', 'int', 'list[int]', 'float' or 'bool'.")
      .def_readonly("least", &Field::least,
                    "The least whole number; a number is larger. 0 where the type is neither.")
      .def_readonly("most", &Field::most, "The largest whole number; a number is smaller.")
      .def_readonly("choices", &Field::choices, "All values, where only a few are known.");
  module.def("spec_fields", &spec_fields, "The fields of a spec, in order.");
  module.def(
      "validate_spec", [](const py::dict& spec) { spec_of(spec); }, py::arg("spec"),
      "Raises ValueError, with a few words, for a dictionary that is no valid spec.");

  py::class_<NamedNorm>(module, "Norm", py::module_local(), "A norm of a model.")
      .def_readonly("name", &NamedNorm::name, "In the flat file, before its vectors' names.")
      .def_readonly("role", &NamedNorm::role, "Its name in its layer.")
      .def_readonly("layer", &NamedNorm::layer, "-1 outside of the layers.")
      .def_property_readonly(
          "size", [](const NamedNorm& self) { return self.shape.size; }, "Entries of its vectors.")
      .def_property_readonly(
          "bias", [](const NamedNorm& self) { return self.shape.has_bias; },
          "Whether a vector is added; all have one that they multiply by.");
  py::class_<NamedMatrix>(module, "Linear", py::module_local(),
                          "A weight matrix of a model; the embedding is one, row by token.")
      .def_readonly("name", &NamedMatrix::name, "In the flat file, before its parts' names.")
      .def_readonly("role", &NamedMatrix::role, "Its name in its layer.")
      .def_readonly("layer", &NamedMatrix::layer, "-1 outside of the layers.")
      .def_property_readonly(
          "component", [](const NamedMatrix& self) { return self.shape.component; },
          "The component of the model, for which a recipe may choose a format.")
      .def_property_readonly(
          "rows", [](const NamedMatrix& self) { return self.shape.rows; }, "Its outputs.")
      .def_property_readonly(
          "columns", [](const NamedMatrix& self) { return self.shape.columns; }, "Its inputs.")
      .def_property_readonly(
          "bias", [](const NamedMatrix& self) { return self.shape.has_bias; },
          "Whether a vector of `rows` entries is added.")
      .def_readonly("reads", &NamedMatrix::reads,
                    "The norm or matrix whose result it multiplies, maybe through attention or\n"
                    "the activation; '' where a token chooses its row.");
  py::class_<NamedTable>(module, "Table", py::module_local(),
                         "A matrix of f32 that is looked up, not multiplied, stored row by row.")
      .def_readonly("name", &NamedTable::name, "In the flat file.")
      .def_readonly("rows", &NamedTable::rows, "A vector has one.")
      .def_readonly("columns", &NamedTable::columns, "Entries of a row.")
      .def_readonly("shared", &NamedTable::shared,
                    "Whether every layer reads it; such a\ntable follows from the config alone.");
  module.def(
      "norms", [](const py::dict& spec) { return named_norms(spec_of(spec)); }, py::arg("spec"),
      "The norms of a model, in the order of the flat file.");
  module.def(
      "linears", [](const py::dict& spec) { return named_matrices(spec_of(spec)); },
      py::arg("spec"), "The weight matrices of a model, in the order of the flat file.");
  module.def(
      "tables", [](const py::dict& spec) { return named_tables(spec_of(spec)); }, py::arg("spec"),
      "The tables of a model, in the order of the flat file.");
}

}  // namespace pythia_rt
