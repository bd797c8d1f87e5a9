// The operations of a backend over numpy arrays, for tests.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "base/epilogue.h"

namespace pythia_rt {

// Throws for a name that is none.
Epilogue epilogue_named(const std::string& name);

void bind_backends(pybind11::module_& module);

}  // namespace pythia_rt
