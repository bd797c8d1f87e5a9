// How far two distributions over a vocabulary are apart, in double precision.
#pragma once

#include <cstddef>
#include <vector>

namespace pythia_rt {

// Probabilities and their logarithms.
class Distribution {
 public:
  explicit Distribution(size_t n) : p_(n), log_p_(n) {}

  // The softmax of logits [n], some of which may be minus infinity.
  void set_logits(const float* logits);
  // What is proportional to shares [n], none below 0.
  void set_shares(const double* shares);

  size_t n() const { return p_.size(); }
  const double* p() const { return p_.data(); }
  const double* log_p() const { return log_p_.data(); }

 private:
  std::vector<double> p_, log_p_;
};

// In nats, never below 0. What is 0 in the first adds nothing to its divergence to the second, what
// is 0 in the second alone makes it infinite; NaN makes everything NaN.
struct Distances {
  double kl;          // of the first to the second
  double reverse_kl;  // of the second to the first
  double js;          // Jensen-Shannon: the mean of both divergences to the mean of the two
};

// Of distributions of the same n.
Distances distances(const Distribution& first, const Distribution& second);

}  // namespace pythia_rt
