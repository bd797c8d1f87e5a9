// The part of the test extension that is about threads.
#pragma once

#include <pybind11/pybind11.h>

namespace pythia_rt {

void bind_threads(pybind11::module_& module);

}  // namespace pythia_rt
