#include <algorithm>
#include <tuple>
#include <vector>

#include "base/cpu_count.h"
#include "base/thread_pool.h"
#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/module.h"
#include "engine/divergence.h"
#include "engine/token_stats.h"
#include "kernels/dispatch.h"

namespace pythia_rt {

namespace {

using IntArray = py::array_t<int32_t, py::array::c_style>;
using DoubleArray = py::array_t<double, py::array::c_style>;

// As many threads as rows of `width` values are worth, of `threads` or by default one per core.
int threads_for(int64_t n, int64_t width, int threads) {
  constexpr int64_t kWorthAThread = 1 << 16;  // values
  const int64_t most = threads == 0 ? default_thread_count() : threads;
  const int64_t useful = std::min(n, n * width / kWorthAThread);
  return static_cast<int>(std::clamp<int64_t>(most, 1, std::max<int64_t>(useful, 1)));
}

std::tuple<FloatArray, DoubleArray, IntArray, IntArray> stats_of(const FloatArray& logits,
                                                                 const TokenArray& tokens,
                                                                 int threads) {
  if (logits.ndim() != 2) throw_invalid("logits must be an array [n, vocab_size]");
  const int64_t n = logits.shape(0), vocab_size = logits.shape(1);
  if (count_tokens(tokens) != n) {
    throw_invalid("there are ", count_tokens(tokens), " tokens for ", n, " rows of logits");
  }
  for (int64_t i = 0; i < n; ++i) {
    const int32_t token = tokens.data()[i];
    if (token < 0 || token >= vocab_size) {
      throw_invalid("token ", token, " (at index ", i, ") is not in the vocabulary of ",
                    vocab_size);
    }
  }
  FloatArray log_probabilities(n);
  DoubleArray entropies(n);
  IntArray ranks(n), likeliest(n);
  const float* in = logits.data();
  const int32_t* token = tokens.data();
  float* log_probability = log_probabilities.mutable_data();
  double* entropy = entropies.mutable_data();
  int32_t *rank = ranks.mutable_data(), *top = likeliest.mutable_data();
  {
    const GilRelease release;
    ThreadPool pool(threads_for(n, vocab_size, threads));
    pool.run(n, [&](int64_t i, int) {
      const TokenStats stats =
          token_stats(selected_kernels(), in + i * vocab_size, vocab_size, token[i]);
      log_probability[i] = stats.log_probability;
      entropy[i] = stats.entropy;
      rank[i] = stats.rank;
      top[i] = stats.likeliest;
    });
  }
  return {log_probabilities, entropies, ranks, likeliest};
}

using DistanceArrays = std::tuple<DoubleArray, DoubleArray, DoubleArray>;

// Between the softmax of each row of logits and what read(distribution, row) makes of a row of
// `others`, both up to `vocabulary`.
template <typename Value, typename Read>
DistanceArrays distances_to(const FloatArray& logits,
                            const py::array_t<Value, py::array::c_style>& others,
                            int64_t vocabulary, int threads, const Read& read) {
  if (logits.ndim() != 2 || others.ndim() != 2 || logits.shape(0) != others.shape(0)) {
    throw_invalid("two arrays [n, vocabulary] of as many rows are compared");
  }
  const int64_t n = logits.shape(0), width = logits.shape(1), others_width = others.shape(1);
  if (vocabulary < 1 || vocabulary > std::min(width, others_width)) {
    throw_invalid("the rows have ", width, " and ", others_width, " values, not ", vocabulary);
  }
  DoubleArray kl(n), reverse_kl(n), js(n);
  const float* first = logits.data();
  const Value* second = others.data();
  double *out = kl.mutable_data(), *reverse = reverse_kl.mutable_data(), *mean = js.mutable_data();
  {
    const GilRelease release;
    const int n_threads = threads_for(n, vocabulary, threads);
    const Distribution empty(static_cast<size_t>(vocabulary));
    std::vector<Distribution> pairs(static_cast<size_t>(2 * n_threads), empty);
    ThreadPool pool(n_threads);
    pool.run(n, [&](int64_t i, int worker) {
      Distribution* pair = &pairs[static_cast<size_t>(2 * worker)];
      pair[0].set_logits(first + i * width);
      read(pair[1], second + i * others_width);
      const Distances found = distances(pair[0], pair[1]);
      out[i] = found.kl;
      reverse[i] = found.reverse_kl;
      mean[i] = found.js;
    });
  }
  return {kl, reverse_kl, js};
}

DistanceArrays distances_to_logits(const FloatArray& logits, const FloatArray& others,
                                   int64_t vocabulary, int threads) {
  return distances_to(logits, others, vocabulary, threads,
                      [](Distribution& into, const float* row) { into.set_logits(row); });
}

DistanceArrays distances_to_shares(const FloatArray& logits, const DoubleArray& shares,
                                   int threads) {
  const int64_t vocabulary = shares.ndim() == 2 ? shares.shape(1) : 0;
  return distances_to(logits, shares, vocabulary, threads,
                      [](Distribution& into, const double* row) { into.set_shares(row); });
}

}  // namespace

void bind_distributions(py::module_& module) {
  module.def(
      "token_stats", &stats_of, py::arg("logits"), py::arg("tokens"), py::kw_only(),
      py::arg("threads") = 0,
      "What rows of finite logits [n, vocab_size] say of the tokens [n] after them: their\n"
      "log-probabilities, as `score` gives them, the distributions' entropies in nats, how many\n"
      "tokens were likelier, and the likeliest one, the lowest id of equals; all [n]. `threads`:\n"
      "0 for one per core.");
  module.def(
      "divergence", &distances_to_logits, py::arg("logits"), py::arg("others"),
      py::arg("vocabulary"), py::kw_only(), py::arg("threads") = 0,
      "Of each row of logits to that of `others`, both [n, vocabulary or more]: KL, that of\n"
      "`others` to the logits, and Jensen-Shannon of the distributions over the first "
      "`vocabulary`\n"
      "ids, in nats, float64 [n] each. A logit may be minus infinity; a row with NaN gives NaN.");
  module.def("divergence_from_shares", &distances_to_shares, py::arg("logits"), py::arg("shares"),
             py::kw_only(), py::arg("threads") = 0,
             "The same where `shares` [n, vocab_size], none below 0, are proportional to\n"
             "probabilities.");
}

}  // namespace pythia_rt
