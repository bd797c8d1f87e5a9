// Arrays of what is captured.
#pragma once

#include <cstdint>
#include <vector>

#include "bindings/arrays.h"

namespace pythia_rt {

// An array of float32 or float16, whatever stands in it. Its memory, once nobody has it, serves
// others: a system that clears memory anew for each run takes longer than the copies into it.
py::array new_array(bool in_halves, const std::vector<int64_t>& shape);

}  // namespace pythia_rt
