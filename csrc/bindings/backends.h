// The operations of a backend over numpy arrays, for tests.
#pragma once

#include <pybind11/pybind11.h>

namespace pythia_rt {

void bind_backends(pybind11::module_& module);

}  // namespace pythia_rt
