#include "bindings/spec.h"

#include <string>
#include <utility>
#include <vector>

#include "base/error.h"

namespace pythia_rt {

namespace py = pybind11;

namespace {

template <typename Value>
Value field(const py::dict& spec, const char* name) {
  if (!spec.contains(name)) throw_invalid("the model's spec lacks '", name, "'");
  try {
    return spec[name].cast<Value>();
  } catch (const py::cast_error&) {
    throw_invalid("the model's ", name, " cannot be ", std::string(py::repr(spec[name])));
  }
}

// A field with a few known names: the value that belongs to the name.
template <typename Value>
Value choice(const py::dict& spec, const char* name,
             const std::vector<std::pair<const char*, Value>>& values) {
  const auto given = field<std::string>(spec, name);
  std::string names;
  for (const auto& [known, value] : values) {
    if (given == known) return value;
    names += std::string(names.empty() ? "" : ", ") + known;
  }
  throw_invalid("the model's ", name, " '", given, "' is not known here; known: ", names);
}

}  // namespace

Spec spec_of(const py::dict& fields) {
  Spec spec;
  spec.n_layers = field<int64_t>(fields, "n_layers");
  spec.n_heads = field<int64_t>(fields, "n_heads");
  spec.n_kv_heads = field<int64_t>(fields, "n_kv_heads");
  spec.head_dim = field<int64_t>(fields, "head_dim");
  spec.hidden_size = field<int64_t>(fields, "hidden_size");
  spec.mlp_size = field<int64_t>(fields, "mlp_size");
  spec.vocab_size = field<int64_t>(fields, "vocab_size");
  spec.n_tokens = field<int64_t>(fields, "n_tokens");
  spec.max_positions = field<int64_t>(fields, "max_positions");
  spec.norm_epsilon = field<float>(fields, "norm_eps");
  spec.rotary_dim = field<int64_t>(fields, "rotary_dim");
  spec.rope_base = field<double>(fields, "rope_base");
  spec.tied_head = field<bool>(fields, "tied_head");
  spec.attention_bias = field<bool>(fields, "attention_bias");
  spec.mlp_bias = field<bool>(fields, "mlp_bias");
  spec.residual = choice<Residual>(
      fields, "residual", {{"parallel", Residual::parallel}, {"sequential", Residual::sequential}});
  spec.activation = choice<Activation>(
      fields, "activation", {{"gelu", Activation::gelu}, {"gelu_tanh", Activation::gelu_tanh}});
  choice<int>(fields, "norm", {{"layer", 0}});
  choice<int>(fields, "mlp", {{"plain", 0}});
  choice<int>(fields, "rope", {{"half", 0}});
  return spec;
}

}  // namespace pythia_rt
