// Checks of an ISA's vector operations against the scalar ones and against independent truths.
#pragma once

#include "checks.h"
#include "simd_probe.h"

namespace pythia_rt::conformance {

void check_simd(const SimdProbe& probe, const SimdProbe& scalar, Checks& checks);

}  // namespace pythia_rt::conformance
