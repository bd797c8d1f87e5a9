// Every ISA of this binary that this processor runs, checked without Python: vector operations and
// kernels, bit for bit against the scalar ones and within bounds against double precision.
// Exit status 0 when all is well. The digests must be the same on every machine.
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <exception>
#include <vector>

#include "kernel_checks.h"
#include "kernels/dispatch.h"
#include "simd_checks.h"

namespace pythia_rt {

#define PYTHIA_RT_ISA_ENTRY(name, features)   \
  namespace name {                            \
  const conformance::SimdProbe& simd_probe(); \
  }
#include "isas.inc"
#undef PYTHIA_RT_ISA_ENTRY

namespace conformance {
namespace {

const SimdProbe& probe_of(const std::string& isa) {
#define PYTHIA_RT_ISA_ENTRY(name, features) \
  if (isa == #name) return name::simd_probe();
#include "isas.inc"
#undef PYTHIA_RT_ISA_ENTRY
  return scalar::simd_probe();
}

int run() {
  const std::vector<std::string> supported = supported_isas();
  int passed = 0, failed = 0;
  for (const std::string& isa : compiled_isas()) {
    if (std::find(supported.begin(), supported.end(), isa) == supported.end()) {
      std::printf("%-7s skipped: this processor does not run it\n", isa.c_str());
      continue;
    }
    Checks checks(isa);
    const KernelTable& table = kernels_for(isa);
    const KernelTable& scalar = kernels_for("scalar");
    check_simd(probe_of(isa), probe_of("scalar"), checks);
    check_quantise(table, scalar, checks);
    check_linear(table, scalar, checks);
    check_layer_norm(table, scalar, checks);
    check_rotate(table, scalar, checks);
    check_softmax(table, scalar, checks);
    check_fit_scales(table, scalar, checks);
    check_attention(table, scalar, checks);
    std::printf("%-7s digest of the kernels' results: %016" PRIx64 "\n", isa.c_str(),
                checks.digest());
    // What GPT-NeoX does not use came later: the digest above stays what it was.
    check_rms_norm(table, scalar, checks);
    check_other_activations(table, scalar, checks);
    check_shared_attention(table, scalar, checks);
    std::printf("%-7s digest with those of other models: %016" PRIx64 "\n", isa.c_str(),
                checks.digest());
    check_norm_parts(table, scalar, checks);
    std::printf("%-7s digest with norms of heads: %016" PRIx64 "\n", isa.c_str(), checks.digest());
    passed += checks.passed();
    failed += checks.failed();
  }
  std::printf("%-7s is chosen where none is asked for\n", supported.front().c_str());
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace conformance
}  // namespace pythia_rt

int main() {
  try {
    return pythia_rt::conformance::run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "conformance: %s\n", error.what());
    return 1;
  }
}
