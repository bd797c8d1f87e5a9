// What happens to a matrix product's result y on its way out: said by model/, done by kernels/.
#pragma once

namespace pythia_rt {

// THE list of activations: functions of these names in simd/math.h and cuda/kernels/math.cuh.
// Epilogues, the spec's choice (model/fields.inc), dispatch and tests iterate it.
#define PYTHIA_RT_ACTIVATIONS(EACH)       \
  EACH(gelu)      /* the erf form */      \
  EACH(gelu_tanh) /* the tanh form */     \
  EACH(silu)      /* x times sigmoid x */ \
  EACH(relu)      /* max(x, 0) */

#define PYTHIA_RT_ITEM(name) name,

enum class Epilogue : int {
  store,                                 // out = y
  add,                                   // out += y
  PYTHIA_RT_ACTIVATIONS(PYTHIA_RT_ITEM)  // out = activation(y)
};

}  // namespace pythia_rt
