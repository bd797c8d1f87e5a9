// The part of the test extension that times kernels and limits.
#pragma once

#include <pybind11/pybind11.h>

namespace pythia_rt {

void bind_timing(pybind11::module_& module);

}  // namespace pythia_rt
