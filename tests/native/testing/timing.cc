// Timing for bench/: a workload runs here as long as it is told to, without Python's lock.
#include "testing/timing.h"

#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/cpu_count.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "bindings/gil.h"
#include "bindings/module.h"
#include "bindings/spec.h"
#include "formats/formats.h"
#include "formats/kv_formats.h"
#include "forward/activations.h"
#include "kernels/dispatch.h"
#include "limits/dispatch.h"
#include "timing/trace.h"
#include "timing/workloads.h"

namespace pythia_rt {

namespace py = pybind11;

namespace {

PageBuffer::Kind kind_from_name(const std::string& name) {
  if (name == "small") return PageBuffer::Kind::small;
  if (name == "huge") return PageBuffer::Kind::huge;
  if (name == "file") return PageBuffer::Kind::file;
  throw_invalid("there are no pages '", name, "'; there are small, huge, file");
}

std::unique_ptr<PageBuffer> make_pages(int64_t bytes, const std::string& kind, int file) {
  if (bytes < 1) throw_invalid("a buffer must have at least one byte");
  return std::make_unique<PageBuffer>(static_cast<size_t>(bytes), kind_from_name(kind), file);
}

std::unique_ptr<Workload> multiply(const std::string& isa, const std::string& type) {
  const LimitTable& limits = limits_for(isa);
  if (type == "fp32") return multiply_workload(limits.fp32);
  const MultiplyLoop& loop = limits.bytes[static_cast<int>(format_from_name(type))];
  if (loop.run == nullptr) throw_invalid(type, " weights are multiplied as fp32");
  return multiply_workload(loop);
}

std::unique_ptr<Backend> make_traced_cpu(int threads) {
  return make_traced_backend(selected_kernels(), threads == 0 ? default_thread_count() : threads);
}

// ([operation, kernel or None, calls, nanoseconds], begin, end): see timing/trace.h.
auto take_regions() {
  using Region = std::tuple<std::string, std::optional<std::string>, int64_t, int64_t>;
  const Trace trace = take_trace();
  std::vector<Region> regions;
  for (const TracedRegion& region : trace.regions) {
    std::optional<std::string> kernel;
    if (region.kernel != nullptr) kernel = region.kernel;
    regions.emplace_back(region.operation, kernel, region.calls, region.nanoseconds);
  }
  return std::tuple(regions, trace.begin, trace.end);
}

// The bytes of a pass's buffers: as they are counted before a model is made, and as they are taken.
std::pair<size_t, size_t> activation_bytes(const py::dict& given) {
  const Spec spec = spec_of(given);
  const std::unique_ptr<Backend> backend = make_traced_cpu(1);
  take_trace();
  const Activations activations(*backend, spec);
  if (spec.has_gate()) activations.halves();
  return {Activations::bytes(spec), take_trace().allocated};
}

// What _core has to write text with, where the CPU is traced.
void bind_traced(py::module_ module) {
  bind_model(module, make_traced_cpu);
  bind_session(module);
  bind_passes(module);
  bind_run(module);
  bind_writing(module);
  bind_sampling(module);
  module.def("take", &take_regions);
}

}  // namespace

void bind_timing(py::module_& module) {
  const auto unlocked = py::call_guard<GilRelease>();

  py::class_<ThreadPool>(module, "ThreadPool").def(py::init<int>(), py::arg("threads"));

  py::class_<PageBuffer>(module, "PageBuffer")
      .def(py::init(&make_pages), py::arg("size"), py::arg("kind"), py::arg("file") = -1, unlocked)
      .def_property_readonly("size", &PageBuffer::size);

  py::class_<Workload>(module, "Workload")
      .def_property_readonly("bytes", &Workload::bytes)
      .def_property_readonly("operations", &Workload::operations)
      .def("time", &Workload::time, py::arg("pool"), py::arg("seconds"), unlocked);

  module.def(
      "read_workload",
      [](const std::string& isa, const PageBuffer& pages) {
        return read_workload(limits_for(isa), pages);
      },
      py::arg("isa"), py::arg("pages"), py::keep_alive<0, 2>());
  module.def("multiply_workload", &multiply, py::arg("isa"), py::arg("type"));
  module.def(
      "linear_workload",
      [](const std::string& isa, const PageBuffer& pages, const std::string& format, int64_t rows,
         int64_t columns, int64_t tokens) {
        return linear_workload(kernels_for(isa), pages, format_from_name(format), rows, columns,
                               tokens);
      },
      py::arg("isa"), py::arg("pages"), py::arg("format"), py::arg("rows"), py::arg("columns"),
      py::arg("tokens"), py::keep_alive<0, 2>());
  module.def(
      "attention_workload",
      [](const std::string& isa, const PageBuffer& pages, const std::string& kv_format,
         int64_t heads, int64_t head_dim, int64_t tokens, int64_t positions) {
        return attention_workload(kernels_for(isa), pages, kv_format_from_name(kv_format),
                                  {heads, head_dim, tokens, positions});
      },
      py::arg("isa"), py::arg("pages"), py::arg("kv_format"), py::arg("heads"), py::arg("head_dim"),
      py::arg("tokens"), py::arg("positions"), py::keep_alive<0, 2>());
  module.def(
      "norm_workload",
      [](const std::string& isa, int64_t tokens, int64_t columns) {
        return norm_workload(kernels_for(isa), tokens, columns);
      },
      py::arg("isa"), py::arg("tokens"), py::arg("columns"));
  module.def(
      "quantise_workload",
      [](const std::string& isa, int64_t tokens, int64_t columns) {
        return quantise_workload(kernels_for(isa), tokens, columns);
      },
      py::arg("isa"), py::arg("tokens"), py::arg("columns"));
  module.def("activation_bytes", &activation_bytes, py::arg("spec"));
  bind_traced(module.def_submodule("traced"));
}

}  // namespace pythia_rt
