#include "sampling/options.h"

#include <cfloat>
#include <cstdint>

#include "base/error.h"

namespace pythia_rt {
namespace {

// Written so that NaN, which compares false with everything, is out of every range.
void check(const char* option, double value, double low, double high, const char* range) {
  if (!(value >= low && value <= high)) {
    throw_invalid(option, " must be ", range, ", not ", value);
  }
}

}  // namespace

void check_options(const SamplingOptions& options, std::int32_t n_tokens) {
  if (n_tokens < 1) throw_invalid("n_tokens must be 1 or more, not ", n_tokens);
  check("temperature", options.temperature, 0.0, DBL_MAX, "0 (greedy) or a positive finite number");
  if (options.top_k < 0) throw_invalid("top_k must be 0 (off) or more, not ", options.top_k);
  check("top_p", options.top_p, DBL_TRUE_MIN, 1.0, "more than 0 and at most 1 (off)");
  check("min_p", options.min_p, 0.0, 1.0, "between 0 (off) and 1");
  check("typical_p", options.typical_p, DBL_TRUE_MIN, 1.0, "more than 0 and at most 1 (off)");
  // The bounds of the penalties keep every adjusted logit finite.
  check("repetition_penalty", options.repetition_penalty, 1e-3, 1e3,
        "between 0.001 and 1000 (1 is off)");
  check("presence_penalty", options.presence_penalty, -100.0, 100.0,
        "between -100 and 100 (0 is off)");
  check("frequency_penalty", options.frequency_penalty, -100.0, 100.0,
        "between -100 and 100 (0 is off)");
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
