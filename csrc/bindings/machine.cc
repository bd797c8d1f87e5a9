#include <pybind11/stl.h>

#include <memory>

#include "base/cpu_count.h"
#include "base/mapped_range.h"
#include "bindings/module.h"
#include "cuda/cuda.h"
#include "kernels/dispatch.h"

namespace pythia_rt {

namespace py = pybind11;

void bind_machine(py::module_& module) {
  py::class_<MappedRange>(
      module, "MappedRange", py::module_local(),
      "Keeps a read of a mapped file that was cut short from ending the process.")
      .def(py::init([](const py::buffer& buffer) {
             const py::buffer_info view = buffer.request();
             return std::make_unique<MappedRange>(view.ptr,
                                                  static_cast<size_t>(view.size * view.itemsize));
           }),
           py::arg("buffer"),
           "The buffer's memory, which must outlive this. Missing pages of it read as zeros.")
      .def_property_readonly("is_damaged", &MappedRange::is_damaged,
                             "Whether a page was missing when it was read.");
  module.def("isa_names", &supported_isas,
             "Names of the instruction sets that this processor runs, best first.");
  module.def(
      "selected_isa", [] { return std::string(selected_kernels().isa); },
      "Name of the instruction set that a new model will use: PYTHIA_RT_ISA, or the best one.\n\n"
      "Raises ValueError, listing the names, where PYTHIA_RT_ISA names none that runs here.");
  module.def(
      "cuda_unavailable", &cuda_unavailable,
      "Why models cannot run on a CUDA device here, as a sentence without its end; empty if\n"
      "they can.");
  module.def("cuda_device_name", &cuda_device_name,
             "The CUDA device's name. Raises RuntimeError where there is none.");
  module.def("default_threads", &default_thread_count,
             "Physical cores that this process may use, its affinity and cgroup quota respected.");
}

}  // namespace pythia_rt
