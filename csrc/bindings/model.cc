#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "backend/cpu.h"
#include "base/cpu_count.h"
#include "bindings/arrays.h"
#include "bindings/bound_model.h"
#include "bindings/gil.h"
#include "bindings/module.h"
#include "bindings/spec.h"
#include "bindings/tensors.h"
#include "cuda/cuda.h"
#include "forward/points.h"
#include "kernels/dispatch.h"

namespace pythia_rt {

namespace {

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

std::map<int64_t, std::vector<float>> constants_of(const std::map<int64_t, FloatArray>& arrays) {
  std::map<int64_t, std::vector<float>> constants;
  for (const auto& [layer, array] : arrays) {
    constants[layer] = {array.data(), array.data() + array.size()};
  }
  return constants;
}

// The device that runs the first layers, and with them most of the model.
const Stage& first_stage(const BoundModel& bound) { return bound.model->stages().front(); }

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
          [](const BoundModel& self) { return std::string(first_stage(self).backend->isa()); },
          "Instruction set that runs it, of the device that has its first layers.")
      .def_property_readonly(
          "device",
          [](const BoundModel& self) { return std::string(first_stage(self).backend->device()); },
          "'cpu', or 'cuda' where that has all layers or the first ones.")
      .def_property_readonly(
          "gpu_layers",
          [](const BoundModel& self) {
            const Stage& stage = first_stage(self);
            return stage.backend == &self.model->cpu() ? int64_t{0} : stage.n_layers;
          },
          "How many layers, from the first on, the device 'cuda' runs.")
      .def_property_readonly(
          "bytes_per_token",
          [](const BoundModel& self) { return self.model->weights().bytes_per_token; },
          "Bytes of weights that decoding one token reads.")
      .def_property_readonly(
          "cache_pages", [](const BoundModel& self) { return self.model->pool().n_taken(); },
          "Pages of 128 positions that the caches of its sessions hold, shared ones once.")
      .def_property_readonly(
          "cache_bytes", [](const BoundModel& self) { return self.model->pool().bytes_taken(); },
          "Bytes of these pages.")
      .def_property(
          "cache_budget",
          [](const BoundModel& self) -> std::optional<int64_t> {
            const int64_t budget = self.model->pool().budget();
            return budget == PagePool::kNoBudget ? std::nullopt : std::optional(budget);
          },
          [](const BoundModel& self, std::optional<int64_t> bytes) {
            if (bytes && *bytes < 0) throw_invalid("a budget cannot be ", *bytes, " bytes");
            self.model->pool().set_budget(bytes.value_or(PagePool::kNoBudget));
          },
          "Bytes that they may have; None for what there is. Who needs more gets a MemoryError.")
      .def(
          "set_left_out",
          [](const BoundModel& self, const std::map<int64_t, FloatArray>& keys,
             const std::map<int64_t, FloatArray>& values) {
            LeftOut left_out{constants_of(keys), constants_of(values)};
            const GilRelease release;  // a pass may be under way
            self.model->set_left_out(std::move(left_out));
          },
          py::arg("keys"), py::arg("values"),
          "Tells what the model leaves out of keys and values by layer, float32 [n_kv_heads *\n"
          "head_dim], of all that it leaves out. Scores that are seen or edited have the keys'; "
          "of\n"
          "the values' a row of an edited pattern that does not sum to 1 mixes more or less. No\n"
          "other value depends on it. Raises ValueError for another size, RuntimeError in the "
          "middle\n"
          "of a pass.")
      .def_property_readonly(
          "spec", [](const BoundModel& self) { return self.spec; }, "The spec it was made from.")
      .def_property_readonly(
          "points",
          [](const BoundModel& self) {
            std::vector<std::tuple<std::string, bool, int64_t>> points;
            for (const PointFacts& point : points_of(self.model->spec())) {
              points.emplace_back(point.name, point.in_layers, point.width);
            }
            return points;
          },
          "What run() can see: (name, whether each layer has one, values of a token, or -1 where "
          "these\n"
          "are [n_heads, keys]).");
}

}  // namespace pythia_rt
