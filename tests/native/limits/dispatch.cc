#include "limits/dispatch.h"

#include "base/error.h"
#include "kernels/dispatch.h"

namespace pythia_rt {

#define PYTHIA_RT_ISA_ENTRY(name, features) \
  namespace name {                          \
  extern const LimitTable kLimits;          \
  }
#include "isas.inc"
#undef PYTHIA_RT_ISA_ENTRY

const LimitTable& limits_for(const std::string& isa) {
  const std::string supported = kernels_for(isa).isa;  // throws
#define PYTHIA_RT_ISA_ENTRY(name, features) \
  if (supported == #name) return name::kLimits;
#include "isas.inc"
#undef PYTHIA_RT_ISA_ENTRY
  throw_invalid("there are no limits of the ISA '", isa, "'");
}

}  // namespace pythia_rt
