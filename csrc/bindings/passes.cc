#include "engine/passes.h"

#include <pybind11/stl.h>

#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/bound_session.h"
#include "bindings/gil.h"
#include "bindings/module.h"
#include "engine/log_softmax.h"
#include "engine/top_tokens.h"
#include "kernels/dispatch.h"
#include "kernels/softmax.h"

namespace pythia_rt {

namespace {

// Appends tokens and runs them; bind(request, tokens) makes the room for what is asked of a
// sequence.
template <typename Bind>
auto run_batch(const std::vector<BoundSession*>& sessions, const std::vector<TokenArray>& tokens,
               const Bind& bind) {
  if (sessions.size() != tokens.size()) {
    throw_invalid("there are ", sessions.size(), " sessions for ", tokens.size(), " token arrays");
  }
  std::vector<decltype(bind(std::declval<Request&>(), tokens.front()))> results;
  std::vector<Request> requests;
  std::vector<const int32_t*> pointers;
  for (size_t i = 0; i < sessions.size(); ++i) {
    requests.push_back({&sessions[i]->sequence(), count_tokens(tokens[i])});
    pointers.push_back(tokens[i].data());
    results.push_back(bind(requests.back(), tokens[i]));
  }
  const GilRelease release;
  const auto locks = claim_all(sessions);
  append_and_run(requests, pointers, [&] { release.check_signals(); });
  if (!sessions.empty()) sessions.front()->model().check_memory();
  return results;
}

FloatArray bind_logits(Request& request, const TokenArray& /*tokens*/) {
  FloatArray logits = logits_array(*request.sequence, request.count);
  request.logits = logits.mutable_data();
  return logits;
}

std::vector<FloatArray> forward_batch(const std::vector<BoundSession*>& sessions,
                                      const std::vector<TokenArray>& tokens) {
  return run_batch(sessions, tokens, bind_logits);
}

using Scores = std::pair<FloatArray, py::array_t<bool>>;

// Of `n` terms: their log-probabilities, and whether no other token was likelier.
Scores scores_of(const SoftmaxTerm* terms, size_t n) {
  const auto length = static_cast<py::ssize_t>(n);
  Scores scores{FloatArray(length), py::array_t<bool>(length)};
  float* log_probabilities = scores.first.mutable_data();
  bool* is_likeliest = scores.second.mutable_data();
  for (size_t i = 0; i < n; ++i) {
    log_probabilities[i] = log_softmax(terms[i]);
    is_likeliest[i] = terms[i].logit >= terms[i].largest;
  }
  return scores;
}

std::vector<Scores> score_batch(const std::vector<BoundSession*>& sessions,
                                const std::vector<TokenArray>& tokens, bool run_last) {
  const auto bind = [run_last](Request& request, const TokenArray& given) {
    std::vector<SoftmaxTerm> terms(static_cast<size_t>(request.count));
    if (!run_last && request.count > 0) request.next = given.data()[--request.count];
    request.terms = terms.data();
    return terms;
  };
  std::vector<Scores> scores;
  for (const std::vector<SoftmaxTerm>& terms : run_batch(sessions, tokens, bind)) {
    scores.push_back(scores_of(terms.data(), terms.size() - 1));  // nothing is before the first
  }
  return scores;
}

// The same of tokens that might follow a row of logits.
Scores judge(const FloatArray& logits, const TokenArray& tokens) {
  if (logits.ndim() != 1) throw_invalid("logits must be an array [vocab_size]");
  const int64_t vocab_size = logits.shape(0);
  std::vector<SoftmaxTerm> terms(static_cast<size_t>(count_tokens(tokens)));
  for (size_t i = 0; i < terms.size(); ++i) {
    const int32_t token = tokens.data()[i];
    if (token < 0 || token >= vocab_size) {
      throw_invalid("token ", token, " (at index ", i, ") is not in the vocabulary of ",
                    vocab_size);
    }
    terms[i] = i == 0 ? softmax(selected_kernels(), logits.data(), vocab_size, token) : terms[0];
    terms[i].logit = logits.data()[token];
  }
  return scores_of(terms.data(), terms.size());
}

// The `count` likeliest ids of each row and their log-probabilities [n, count].
std::pair<py::array_t<int32_t>, FloatArray> top_of(const FloatArray& logits, int64_t count) {
  if (logits.ndim() != 2) throw_invalid("logits must be an array [n, vocab_size]");
  const int64_t n = logits.shape(0), vocab_size = logits.shape(1);
  if (count < 1 || count > vocab_size) {
    throw_invalid("there are between 1 and ", vocab_size, " likeliest tokens, not ", count);
  }
  py::array_t<int32_t> ids({n, count});
  FloatArray log_probabilities({n, count});
  const float* in = logits.data();
  int32_t* out_ids = ids.mutable_data();
  float* out = log_probabilities.mutable_data();
  {
    const GilRelease release;
    for (int64_t i = 0; i < n; ++i) {
      const float* row = in + i * vocab_size;
      const SoftmaxTerm term = softmax(selected_kernels(), row, vocab_size, 0);
      top_tokens(row, vocab_size, term, count, out_ids + i * count, out + i * count);
    }
  }
  return {ids, log_probabilities};
}

}  // namespace

void bind_passes(py::module_& module) {
  module.def("forward", &forward_batch, py::arg("sessions"), py::arg("tokens"),
             "Appends tokens [n_i] to each session in shared passes; returns each one's logits\n"
             "[n_i, vocab_size]. Raises ValueError before anything is appended.");

  module.def(
      "score", &score_batch, py::arg("sessions"), py::arg("tokens"), py::kw_only(),
      py::arg("run_last") = true,
      "Appends tokens [n_i] to each session in shared passes; returns the log-probability\n"
      "[n_i - 1] of each one's tokens but the first, under the model's raw distribution, and\n"
      "whether no other was likelier, bool [n_i - 1].\n\n"
      "Without `run_last` the last token is judged all the same, but not appended. The logits are\n"
      "not kept. Raises ValueError before anything is appended.");

  module.def(
      "judge", &judge, py::arg("logits"), py::arg("tokens"),
      "What `score` says of tokens [n] that might each follow a row of logits [vocab_size]:\n"
      "their log-probabilities [n] and whether no other is likelier, bool [n].");

  module.def("top", &top_of, py::arg("logits"), py::arg("count"),
             "The `count` likeliest ids of every row of logits [n, vocab_size], int32 [n, count],\n"
             "the likeliest first and of equals the lower id, and their log-probabilities.");
}

}  // namespace pythia_rt
