// A spec out of Python's dictionary.
#pragma once

#include <pybind11/pybind11.h>

#include "model/spec.h"

namespace pythia_rt {

// Throws std::invalid_argument, with a few words, for a dictionary that is no valid spec.
Spec spec_of(const pybind11::dict& given);

}  // namespace pythia_rt
