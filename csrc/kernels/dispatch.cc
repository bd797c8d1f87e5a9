#include "kernels/dispatch.h"

#include <cstdlib>

#include "base/cpu_features.h"
#include "base/error.h"

namespace pythia_rt {

#define PYTHIA_RT_ISA_ENTRY(name, features) \
  namespace name {                          \
  extern const KernelTable kTable;          \
  }
#include "isas.inc"
#undef PYTHIA_RT_ISA_ENTRY

namespace {

struct Isa {
  const char* name;
  uint32_t features;
  const KernelTable* table;
};

using namespace cpu_feature;

constexpr Isa kIsas[] = {
#define PYTHIA_RT_ISA_ENTRY(name, features) {#name, features, &name::kTable},
#include "isas.inc"
#undef PYTHIA_RT_ISA_ENTRY
};

bool is_supported(const Isa& isa) { return (isa.features & ~cpu_features()) == 0; }

std::string join(const std::vector<std::string>& names) {
  std::string joined;
  for (const std::string& name : names) joined += (joined.empty() ? "" : ", ") + name;
  return joined;
}

}  // namespace

std::vector<std::string> compiled_isas() {
  std::vector<std::string> names;
  for (const Isa& isa : kIsas) names.emplace_back(isa.name);
  return names;
}

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Isa& isa : kIsas) {
    if (is_supported(isa)) names.emplace_back(isa.name);
  }
  return names;
}

const KernelTable& kernels_for(const std::string& name) {
  for (const Isa& isa : kIsas) {
    if (name != isa.name) continue;
    if (is_supported(isa)) return *isa.table;
    throw_invalid("this processor does not run the ISA '", name, "'; it runs ",
                  join(supported_isas()));
  }
  throw_invalid("there is no ISA '", name, "'; this processor runs ", join(supported_isas()));
}

const KernelTable& selected_kernels() {
  const char* forced = std::getenv("PYTHIA_RT_ISA");
  return kernels_for(forced != nullptr && *forced != '\0' ? forced : supported_isas().front());
}

}  // namespace pythia_rt
