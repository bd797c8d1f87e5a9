#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend/cpu.h"
#include "base/cpu_count.h"
#include "bindings/arrays.h"
#include "bindings/bound_model.h"
#include "bindings/gil.h"
#include "bindings/module.h"
#include "cuda/cuda.h"
#include "formats/formats.h"
#include "kernels/dispatch.h"
#include "layer.h"

namespace pythia_rt {

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

using FormatNames = std::map<std::string, std::string>;  // by matrix
using Buffers = std::map<std::string, py::buffer>;       // by tensor

std::map<std::string, Format> formats_of(const FormatNames& names) {
  std::map<std::string, Format> formats;
  for (const auto& [matrix, name] : names) formats[matrix] = format_from_name(name);
  return formats;
}

std::map<std::string, Blob> blobs_of(const Buffers& tensors, HeldBuffers& held) {
  std::map<std::string, Blob> blobs;
  for (const auto& [name, buffer] : tensors) blobs[name] = held.add(buffer);
  return blobs;
}

std::unique_ptr<Backend> device_named(const std::string& name) {
  if (name == "cpu") return nullptr;
  if (name == "cuda") return make_cuda_backend();
  throw_invalid("there is no device '", name, "'; there are cpu, cuda");
}

std::shared_ptr<BoundModel> make_model(const py::dict& spec, const FormatNames& formats,
                                       const Buffers& tensors, std::unique_ptr<Backend> cpu,
                                       const std::string& device,
                                       std::optional<int64_t> gpu_layers) {
  if (gpu_layers && device == "cpu") throw_invalid("gpu_layers is for device='cuda'");
  auto bound = std::make_shared<BoundModel>();
  bound->spec = spec;
  const std::map<std::string, Format> matrix_formats = formats_of(formats);
  const std::map<std::string, Blob> blobs = blobs_of(tensors, bound->buffers);
  const Spec plain_spec = spec_of(spec);
  const GilRelease release;  // weights may have to be copied
  bound->model = std::make_unique<Model>(plain_spec, matrix_formats, blobs, std::move(cpu),
                                         device_named(device), gpu_layers);
  bound->check_memory();
  return bound;
}

// The device that runs the first layers, and with them most of the model.
const Part& first_part(const BoundModel& bound) { return bound.model->parts().front(); }

// A layer and the Python buffers that hold its weights; one thread at a time may run it.
class BoundLayer {
 public:
  BoundLayer(const py::dict& spec, const FormatNames& formats, const Buffers& tensors, int threads)
      : layer_(spec_of(spec), formats_of(formats), blobs_of(tensors, buffers_), make_cpu(threads)) {
  }

  std::pair<FloatArray, std::map<std::string, FloatArray>> run(const FloatArray& hidden,
                                                               bool capture) {
    const Spec& spec = layer_.spec();
    if (hidden.ndim() != 2 || hidden.shape(1) != spec.hidden_size) {
      throw_invalid("hidden must be an array [n, ", spec.hidden_size, "] of float32");
    }
    const int64_t count = hidden.shape(0);
    FloatArray out({count, spec.hidden_size});
    std::copy_n(hidden.data(), hidden.size(), out.mutable_data());
    std::map<std::string, FloatArray> captured;
    Layer::Inputs inputs;
    if (capture) {
      const auto add = [&](const char* name, int64_t columns) {
        return (captured[name] = FloatArray({count, columns})).mutable_data();
      };
      inputs = {add("qkv", spec.hidden_size), add("attn_out", spec.query_size()),
                add("mlp_up", spec.hidden_size), add("mlp_down", spec.mlp_size)};
    }
    float* data = out.mutable_data();
    {
      const GilRelease release;
      const auto lock = claim(mutex_, "layer");
      layer_.run(data, count, inputs, [&] { release.check_signals(); });
    }
    return {out, captured};
  }

 private:
  HeldBuffers buffers_;
  Layer layer_;
  ForkSafeMutex mutex_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu(int threads) {
  return make_cpu_backend(selected_kernels(), threads == 0 ? default_thread_count() : threads);
}

void bind_model(py::module_& module, std::unique_ptr<Backend> (*make)(int)) {
  // Local: in a process that tests several builds of the core, each has its own.
  py::class_<BoundModel, std::shared_ptr<BoundModel>>(
      module, "Model", py::module_local(),
      "Weights, bound to a processor. Many threads may share one.")
      .def(py::init([make](const py::dict& spec, const FormatNames& formats, const Buffers& tensors,
                           int threads, const std::string& device,
                           std::optional<int64_t> gpu_layers) {
             return make_model(spec, formats, tensors, make(threads), device, gpu_layers);
           }),
           py::arg("spec"), py::arg("formats"), py::arg("tensors"), py::kw_only(),
           py::arg("threads") = 0, py::arg("device") = "cpu", py::arg("gpu_layers") = py::none(),
           "Checks that `tensors` (name to buffer, kept alive) are what `spec` asks for.\n\n"
           "0 threads: as many as default_threads(). On the device 'cuda' the weights are copied "
           "to\n"
           "it, or those of the first `gpu_layers` layers. Raises ValueError that names what is\n"
           "wrong, RuntimeError where there is no such device, MemoryError where it has no room.")
      .def_property_readonly(
          "threads", [](const BoundModel& self) { return self.model->cpu().n_threads(); },
          "Threads that a pass uses.")
      .def_property_readonly(
          "isa",
          [](const BoundModel& self) { return std::string(first_part(self).backend->isa()); },
          "Instruction set that runs it, of the device that has its first layers.")
      .def_property_readonly(
          "device",
          [](const BoundModel& self) { return std::string(first_part(self).backend->device()); },
          "'cpu', or 'cuda' where that has all layers or the first ones.")
      .def_property_readonly(
          "gpu_layers",
          [](const BoundModel& self) {
            const Part& part = first_part(self);
            return part.backend == &self.model->cpu() ? int64_t{0} : part.n_layers;
          },
          "How many layers, from the first on, the device 'cuda' runs.")
      .def_property_readonly(
          "bytes_per_token",
          [](const BoundModel& self) { return self.model->weights().bytes_per_token; },
          "Bytes of weights that decoding one token reads.")
      .def_property_readonly(
          "spec", [](const BoundModel& self) { return self.spec; }, "The spec it was made from.");

  py::class_<BoundLayer>(module, "Layer", "One layer of a model, to be run alone.")
      .def(py::init<const py::dict&, const FormatNames&, const Buffers&, int>(), py::arg("spec"),
           py::arg("formats"), py::arg("tensors"), py::kw_only(), py::arg("threads") = 0,
           "Takes a model's spec and one layer's tensors, whose names lack 'layers.{i}.'.\n\n"
           "Keeps the tensors alive. Raises ValueError that names what is wrong.")
      .def("run", &BoundLayer::run, py::arg("hidden"), py::kw_only(), py::arg("capture") = false,
           "What the layer makes of the residual stream [n, hidden_size] of a whole sequence.\n\n"
           "Second, when `capture`: the input [n, columns] of each matrix, by its name.");
}

}  // namespace pythia_rt
