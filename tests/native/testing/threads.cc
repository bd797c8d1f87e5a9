// The part of the test extension about threads: who gets which share of the work, and how many
// there are.
#include "testing/threads.h"

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/cpu_count.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "base/work_shares.h"

namespace pythia_rt {

namespace py = pybind11;

namespace {

using Loads = std::vector<std::pair<int64_t, int64_t>>;  // units and cost
using Taken = std::tuple<int, int64_t, int64_t>;         // load, begin and end

std::vector<Load> loads_of(const Loads& pairs) {
  std::vector<Load> loads;
  for (const auto& [units, cost] : pairs) loads.push_back({units, cost});
  if (pairs.empty() || pairs.size() > 2) throw_invalid("_testing: one load, or two");
  return loads;
}

std::optional<Taken> take(WorkShares& shares, int worker) {
  Piece piece{};
  if (!shares.take(worker, &piece)) return std::nullopt;
  return Taken{piece.load, piece.begin, piece.end};
}

// Every unit adds one to its count; the one at `failing` throws. Returns the counts, load after
// load.
std::vector<int> share(int threads, const Loads& pairs, int64_t grain, int regions, int failing) {
  const std::vector<Load> loads = loads_of(pairs);
  const int64_t second = loads[0].units;
  std::vector<int> counts(static_cast<size_t>(second + (loads.size() > 1 ? loads[1].units : 0)));
  ThreadPool pool(threads);
  const auto task = [&](const Piece& piece, int) {
    for (int64_t unit = piece.begin; unit < piece.end; ++unit) {
      const int64_t index = piece.load * second + unit;
      ++counts[static_cast<size_t>(index)];
      if (index == failing) throw_failed("unit ", index, " failed");
    }
  };
  py::gil_scoped_release release;
  for (int region = 0; region < regions; ++region) {
    if (loads.size() == 1) {
      pool.share({loads[0]}, grain, task);
    } else {
      pool.share({loads[0], loads[1]}, grain, task);
    }
  }
  return counts;
}

}  // namespace

void bind_threads(py::module_& module) {
  py::class_<WorkShares>(module, "WorkShares")
      .def(py::init<int>(), py::arg("workers"))
      .def(
          "deal",
          [](WorkShares& shares, const Loads& pairs, int64_t grain) {
            const std::vector<Load> loads = loads_of(pairs);
            return shares.deal(loads.data(), static_cast<int>(loads.size()), grain);
          },
          py::arg("loads"), py::arg("grain"))
      .def("take", &take, py::arg("worker"))
      .def("give_up", &WorkShares::give_up)
      .def("note", &WorkShares::note, py::arg("worker"), py::arg("cost"), py::arg("seconds"))
      .def("learn", &WorkShares::learn)
      .def("share", &WorkShares::share, py::arg("worker"));
  module.def("share", &share, py::arg("threads"), py::arg("loads"), py::arg("grain"), py::kw_only(),
             py::arg("regions") = 1, py::arg("failing") = -1);
  module.def("count_fast_cores", &count_fast_cores, py::arg("folder"), py::arg("processors"));
}

}  // namespace pythia_rt
