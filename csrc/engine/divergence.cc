#include "engine/divergence.h"

#include <limits>

#include "sampling/portable_math.h"

namespace pythia_rt {

namespace {

// What p adds to a divergence: 0 adds 0, and NaN itself.
double term(double p, double log_p, double log_q) { return p > 0 ? p * (log_p - log_q) : p; }

// Rounding alone can take the divergence of nearly equal distributions below 0. NaN stays.
double not_below_0(double divergence) { return divergence < 0 ? 0 : divergence; }

// Minus infinity of 0, NaN of NaN.
double log_of_share(double share) {
  return share > 0 ? portable_log(share) : share - std::numeric_limits<double>::infinity();
}

}  // namespace

void Distribution::set_logits(const float* logits) {
  const double largest = largest_of(n(), [&](size_t i) { return logits[i]; });
  for (size_t i = 0; i < n(); ++i) log_p_[i] = static_cast<double>(logits[i]) - largest;
  for (size_t i = 0; i < n(); ++i) p_[i] = portable_exp(log_p_[i]);
  const double total = sum_of(n(), [&](size_t i) { return p_[i]; });
  const double log_total = portable_log(total);
  for (size_t i = 0; i < n(); ++i) p_[i] /= total;
  for (size_t i = 0; i < n(); ++i) log_p_[i] -= log_total;
}

void Distribution::set_shares(const double* shares) {
  const double total = sum_of(n(), [&](size_t i) { return shares[i]; });
  for (size_t i = 0; i < n(); ++i) p_[i] = shares[i] / total;
  for (size_t i = 0; i < n(); ++i) log_p_[i] = log_of_share(p_[i]);
}

Distances distances(const Distribution& first, const Distribution& second) {
  const double *p = first.p(), *log_p = first.log_p();
  const double *q = second.p(), *log_q = second.log_p();
  const size_t n = first.n();
  const double kl = sum_of(n, [&](size_t i) { return term(p[i], log_p[i], log_q[i]); });
  const double reverse_kl = sum_of(n, [&](size_t i) { return term(q[i], log_q[i], log_p[i]); });
  const double twice_js = sum_of(n, [&](size_t i) {
    const double log_middle = log_of_share((p[i] + q[i]) / 2);
    return term(p[i], log_p[i], log_middle) + term(q[i], log_q[i], log_middle);
  });
  return {not_below_0(kl), not_below_0(reverse_kl), not_below_0(twice_js / 2)};
}

}  // namespace pythia_rt
