// Which ISAs there are, and which one runs.
#pragma once

#include <string>
#include <vector>

#include "kernels/table.h"

namespace pythia_rt {

// Compiled into this binary, best first.
std::vector<std::string> compiled_isas();

// Those of them that this processor runs, best first; "scalar" is always among them.
std::vector<std::string> supported_isas();

// The kernels of an ISA by its name; throws std::invalid_argument, listing the supported ones.
const KernelTable& kernels_for(const std::string& isa);

// The ISA named by the environment variable PYTHIA_RT_ISA, or the best one where it is not set.
// Throws std::invalid_argument for a name that is unknown or not supported here.
const KernelTable& selected_kernels();

}  // namespace pythia_rt
