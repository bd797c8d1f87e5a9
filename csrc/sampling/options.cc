#include "sampling/options.h"

#include <cfloat>
#include <cstdint>

#include "base/error.h"

namespace pythia_rt {
namespace {

// Written so that NaN, which compares false with everything, is out of every range.
template <typename Value>
void check(const char* option, Value value, Value least, Value most, const char* range) {
  if (!(value >= least && value <= most)) {
    throw_invalid(option, " must be ", range, ", not ", value);
  }
}

}  // namespace

void check_options(const SamplingOptions& options, std::int32_t n_tokens) {
  if (n_tokens < 1) throw_invalid("n_tokens must be 1 or more, not ", n_tokens);
#define PYTHIA_RT_SAMPLING_OPTION(type, name, off, least, most, range) \
  check<type>(#name, options.name, least, most, range);
#include "sampling/options.inc"
#undef PYTHIA_RT_SAMPLING_OPTION
  for (const auto& [id, bias] : options.logit_bias) {
    if (id < 0 || id >= n_tokens) {
      throw_invalid("logit_bias must name token ids between 0 and ", n_tokens - 1, ", not ", id);
    }
    if (!(bias <= FLT_MAX)) {
      throw_invalid("logit_bias of token ", id,
                    " must be a finite number, or minus infinity to ban the token, not ", bias);
    }
  }
}

}  // namespace pythia_rt
