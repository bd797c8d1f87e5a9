#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "backend/cpu.h"
#include "base/cpu_count.h"
#include "base/mapped_range.h"
#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/held_buffers.h"
#include "bindings/module.h"
#include "cuda/cuda.h"
#include "formats/formats.h"
#include "formats/kv_formats.h"
#include "kernels/dispatch.h"
#include "layer.h"
#include "session.h"

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

// A model and the Python buffers that hold its weights.
struct BoundModel {
  // Throws std::runtime_error where weights could not be read: what was computed is wrong.
  void check_memory() const {
    for (const Blob& blob : buffers.blobs()) {
      if (is_damaged(blob.data, blob.size)) {
        throw_failed(
            "the model's file was cut short while it was in use, or its disk failed: load "
            "it again");
      }
    }
  }

  HeldBuffers buffers;
  py::dict spec;
  std::unique_ptr<Model> model;
};

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

// A session that two Python threads cannot run at the same time.
class BoundSession {
 public:
  BoundSession(const std::shared_ptr<BoundModel>& model, int64_t capacity, KvFormat kv_format)
      : model_(model),
        session_(std::shared_ptr<Model>(model, model->model.get()), capacity, kv_format) {}

  // Calls function(session, interrupt) without the GIL.
  template <typename Function>
  auto run(const Function& function) {
    const GilRelease release;
    const auto lock = claim(mutex_, "session");
    const auto interrupt = [&] { release.check_signals(); };
    if constexpr (std::is_void_v<decltype(function(session_, interrupt))>) {
      function(session_, interrupt);
      model_->check_memory();
    } else {
      const auto result = function(session_, interrupt);
      model_->check_memory();
      return result;
    }
  }

  const BoundModel& model() const { return *model_; }
  Session& session() { return session_; }
  ForkSafeMutex& mutex() { return mutex_; }

 private:
  std::shared_ptr<BoundModel> model_;
  Session session_;
  ForkSafeMutex mutex_;
};

FloatArray logits_array(const Session& session, int64_t count) {
  return FloatArray({count, session.model().spec().vocab_size});
}

// Runs tokens on sessions; bind(input) makes the array for what a sequence asks for.
template <typename Bind>
std::vector<FloatArray> run_batch(const std::vector<BoundSession*>& sessions,
                                  const std::vector<TokenArray>& tokens, const Bind& bind) {
  if (sessions.size() != tokens.size()) {
    throw_invalid("there are ", sessions.size(), " sessions for ", tokens.size(), " token arrays");
  }
  std::vector<FloatArray> results;
  std::vector<SequenceInput> inputs;
  for (size_t i = 0; i < sessions.size(); ++i) {
    inputs.push_back({&sessions[i]->session(), tokens[i].data(), count_tokens(tokens[i])});
    results.push_back(bind(inputs.back()));
  }
  const GilRelease release;
  std::vector<std::unique_lock<ForkSafeMutex>> locks;
  for (size_t i = 0; i < sessions.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (sessions[i] == sessions[j]) throw_invalid("a batch names the same session twice");
    }
    locks.push_back(claim(sessions[i]->mutex(), "session"));
  }
  forward(inputs, [&] { release.check_signals(); });
  if (!sessions.empty()) sessions.front()->model().check_memory();
  return results;
}

std::vector<FloatArray> forward_batch(const std::vector<BoundSession*>& sessions,
                                      const std::vector<TokenArray>& tokens) {
  return run_batch(sessions, tokens, [](SequenceInput& input) {
    FloatArray logits = logits_array(*input.session, input.count);
    input.logits = logits.mutable_data();
    return logits;
  });
}

std::vector<FloatArray> score_batch(const std::vector<BoundSession*>& sessions,
                                    const std::vector<TokenArray>& tokens) {
  return run_batch(sessions, tokens, [](SequenceInput& input) {
    FloatArray scores(std::max<int64_t>(input.count - 1, 0));
    input.log_probabilities = scores.mutable_data();
    return scores;
  });
}

}  // namespace

std::unique_ptr<Backend> make_cpu(int threads) {
  return make_cpu_backend(selected_kernels(), threads == 0 ? default_thread_count() : threads);
}

void bind_model(py::module_& module, std::unique_ptr<Backend> (*make)(int)) {
  py::class_<BoundModel, std::shared_ptr<BoundModel>>(
      module, "Model", "Weights, bound to a processor. Many threads may share one.")
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

  py::class_<BoundSession>(module, "Session",
                           "One sequence: its cache, and the logits after its last token.")
      .def(py::init([](const std::shared_ptr<BoundModel>& model, int64_t capacity,
                       const std::string& kv_format) {
             return std::make_unique<BoundSession>(model, capacity, kv_format_from_name(kv_format));
           }),
           py::arg("model"), py::kw_only(), py::arg("capacity") = 0, py::arg("kv_format") = "f16",
           "Room for `capacity` tokens (0: the model's context), cached in one "
           "of\nkv_format_names().")
      .def_property_readonly(
          "position", [](BoundSession& self) { return self.session().position(); },
          "Tokens so far.")
      .def_property_readonly(
          "capacity", [](BoundSession& self) { return self.session().capacity(); },
          "Tokens that it has room for.")
      .def(
          "prefill",
          [](BoundSession& self, const TokenArray& tokens) {
            const int64_t count = count_tokens(tokens);
            self.run([&](Session& session, const auto& interrupt) {
              session.prefill(tokens.data(), count, interrupt);
            });
          },
          py::arg("tokens"), "Appends tokens [n]; the logits after the last one are kept.")
      .def(
          "logits",
          [](BoundSession& self, const TokenArray& tokens) {
            const int64_t count = count_tokens(tokens);
            FloatArray out = logits_array(self.session(), count);
            float* data = out.mutable_data();
            self.run([&](Session& session, const auto& interrupt) {
              session.logits(tokens.data(), count, data, interrupt);
            });
            return out;
          },
          py::arg("tokens"), "Appends tokens [n]; returns the logits [n, vocab_size] after each.")
      .def_property_readonly(
          "last_logits",
          [](BoundSession& self) {
            const std::vector<float>& logits = self.session().last_logits();
            return FloatArray(static_cast<py::ssize_t>(logits.size()), logits.data());
          },
          "A copy of the kept logits [vocab_size].")
      .def(
          "step",
          [](BoundSession& self, GuardedSampler& sampler) {
            const SampledToken sampled = self.run([&](Session& session, const auto&) {
              const auto lock = sampler.lock();
              return session.step(sampler.sampler);
            });
            return std::pair(sampled.token, sampled.log_probability);
          },
          py::arg("sampler"),
          "Samples the next token: (id, log-probability under the model's raw distribution).\n\n"
          "Raises ValueError when there are no logits yet or no room is left.")
      .def(
          "rewind",
          [](BoundSession& self, int64_t position) {
            self.run([&](Session& session, const auto&) { session.rewind(position); });
          },
          py::arg("position"), "Forgets everything after the first `position` tokens.");

  module.def("forward", &forward_batch, py::arg("sessions"), py::arg("tokens"),
             "Appends tokens [n_i] to each session in shared passes; returns each one's logits\n"
             "[n_i, vocab_size]. Raises ValueError before anything is appended.");

  module.def("score", &score_batch, py::arg("sessions"), py::arg("tokens"),
             "Appends tokens [n_i] to each session in shared passes; returns the log-probability\n"
             "[n_i - 1] of each one's tokens but the first, under the model's raw distribution.\n\n"
             "The logits are not kept. Raises ValueError before anything is appended.");
}

}  // namespace pythia_rt
