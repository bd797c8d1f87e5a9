// What happens to a matrix product's result y on its way out: said by model/, done by kernels/.
#pragma once

namespace pythia_rt {

enum class Epilogue : int {
  store,      // out = y
  add,        // out += y
  gelu,       // out = gelu(y), the erf form
  gelu_tanh,  // out = gelu(y), the tanh form
};

}  // namespace pythia_rt
