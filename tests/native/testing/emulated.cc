// The test extension _emulated: what _core binds, where the device "cuda" is the emulator, and the
// emulator's own switches. Never in a wheel.
#include <pybind11/stl.h>

#include <string>

#include "base/error.h"
#include "bindings/module.h"
#include "emulator/scheduler.h"
#include "testing/backends.h"

namespace pythia_rt {

namespace {

namespace emulator = cuda::emulator;

emulator::Order order_named(const std::string& name) {
  if (name == "fifo") return emulator::Order::fifo;
  if (name == "reverse") return emulator::Order::reverse;
  if (name == "random") return emulator::Order::random;
  if (name == "skew") return emulator::Order::skew;
  throw_invalid("there is no order '", name, "'; there are fifo, reverse, random, skew");
}

}  // namespace

PYBIND11_MODULE(_emulated, module) {
  module.doc() = "pythia_rt._core with an emulated CUDA device, for its tests.";
  bind_machine(module);
  bind_formats(module);
  bind_sampling(module);
  bind_model(module);
  bind_session(module);
  bind_passes(module);
  bind_run(module);
  bind_writing(module);
  bind_prefixes(module);
  bind_calibration(module);
  bind_backends(module);
  module.def(
      "set_order",
      [](const std::string& name, uint64_t seed) { emulator::set_order(order_named(name), seed); },
      pybind11::arg("order"), pybind11::arg("seed") = 1,
      "In which order the threads of a block, and its blocks, take turns.");
  module.def("fail_after", &emulator::fail_after, pybind11::arg("launches"),
             "Lets the device disappear after so many launches; below 0 it stays.");
}

}  // namespace pythia_rt
