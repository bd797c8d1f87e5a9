// The limits' loops by ISA.
#pragma once

#include <string>

#include "limits/table.h"

namespace pythia_rt {

// Throws std::invalid_argument, listing the ISAs that this processor runs.
const LimitTable& limits_for(const std::string& isa);

}  // namespace pythia_rt
