#include <pybind11/stl.h>

#include <map>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/module.h"

namespace pythia_rt {

void bind_sampling(py::module_& module) {
  // Local: in a process that tests several builds of the core, each has its own.
  py::class_<GuardedSampler>(module, "Sampler", py::module_local(),
                             "Chooses tokens from logits; the same seed gives the same tokens.")
      .def(py::init([](int32_t n_tokens, double temperature, int64_t top_k, double top_p,
                       double min_p, double typical_p, double repetition_penalty,
                       double presence_penalty, double frequency_penalty,
                       const std::map<int32_t, float>& logit_bias, uint64_t seed) {
             SamplingOptions options;
             options.temperature = temperature;
             options.top_k = top_k;
             options.top_p = top_p;
             options.min_p = min_p;
             options.typical_p = typical_p;
             options.repetition_penalty = repetition_penalty;
             options.presence_penalty = presence_penalty;
             options.frequency_penalty = frequency_penalty;
             options.logit_bias.assign(logit_bias.begin(), logit_bias.end());
             options.seed = seed;
             return new GuardedSampler{Sampler(n_tokens, options), {}};
           }),
           py::kw_only(), py::arg("n_tokens"), py::arg("temperature") = 1.0, py::arg("top_k") = 0,
           py::arg("top_p") = 1.0, py::arg("min_p") = 0.0, py::arg("typical_p") = 1.0,
           py::arg("repetition_penalty") = 1.0, py::arg("presence_penalty") = 0.0,
           py::arg("frequency_penalty") = 0.0, py::arg("logit_bias") = std::map<int32_t, float>(),
           py::arg("seed") = 0, "Raises ValueError that names the first option out of its range.")
      .def(
          "accept_prompt",
          [](GuardedSampler& self, const TokenArray& tokens) {
            const auto count = static_cast<size_t>(count_tokens(tokens));
            const auto lock = self.lock();
            self.sampler.accept_prompt(tokens.data(), count);
          },
          py::arg("tokens"), "Adds prompt tokens [n] to what the repetition penalty has seen.")
      .def(
          "sample",
          [](GuardedSampler& self, const FloatArray& logits) {
            if (logits.ndim() != 1) throw_invalid("logits must be a one-dimensional array");
            const auto count = static_cast<size_t>(logits.size());
            const GilRelease release;
            const auto lock = self.lock();
            return self.sampler.sample(logits.data(), count);
          },
          py::arg("logits"), "Draws a token from logits [vocab_size] and remembers it.");
}

}  // namespace pythia_rt
