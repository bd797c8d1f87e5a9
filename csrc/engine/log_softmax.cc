#include "engine/log_softmax.h"

#include "sampling/portable_math.h"

namespace pythia_rt {

float log_softmax(const SoftmaxTerm& term) {
  const double centred = static_cast<double>(term.logit) - term.largest;
  return static_cast<float>(centred - portable_log(term.sum));
}

}  // namespace pythia_rt
