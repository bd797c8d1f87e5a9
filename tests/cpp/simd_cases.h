// Operands for the vector operations: random ones of every magnitude, and the extremes.
#pragma once

#include "random.h"
#include "simd_probe.h"

namespace pythia_rt::conformance {

constexpr int kExtremeCases = 8;

// Case `index` of an endless sequence; the first kExtremeCases hold the extremes of the products.
SimdCase simd_case(int index, Random& random);

}  // namespace pythia_rt::conformance
