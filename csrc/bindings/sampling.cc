#include <pybind11/stl.h>

#include <cfloat>
#include <map>
#include <variant>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/module.h"

namespace pythia_rt {

namespace {

using Number = std::variant<int64_t, double>;

struct SamplingOption {
  const char* name;
  Number least, most;
  const char* range;
};

std::vector<SamplingOption> sampling_options() {
  return {
#define PYTHIA_RT_SAMPLING_OPTION(type, name, off, least, most, range) \
  SamplingOption{#name, static_cast<type>(least), static_cast<type>(most), range},
#include "sampling/options.inc"
#undef PYTHIA_RT_SAMPLING_OPTION
  };
}

}  // namespace

void bind_sampling(py::module_& module) {
  py::class_<SamplingOption>(module, "SamplingOption", py::module_local(),
                             "What an option of a Sampler that is a number may be.")
      .def_readonly("name", &SamplingOption::name, "Its keyword.")
      .def_readonly("least", &SamplingOption::least, "An int where only whole numbers may be.")
      .def_readonly("most", &SamplingOption::most, "It and `least` are allowed.")
      .def_readonly("range", &SamplingOption::range, "Both in words, after \"must be\".");
  module.def("sampling_options", &sampling_options,
             "The options of a Sampler that are numbers, but for the seed.");
  // Local: in a process that tests several builds of the core, each has its own.
  py::class_<GuardedSampler>(module, "Sampler", py::module_local(),
                             "Chooses tokens from logits; the same seed gives the same tokens.")
      .def(py::init([](int32_t n_tokens,
#define PYTHIA_RT_SAMPLING_OPTION(type, name, off, least, most, range) type name,
#include "sampling/options.inc"
#undef PYTHIA_RT_SAMPLING_OPTION
                       const std::map<int32_t, float>& logit_bias, uint64_t seed) {
             SamplingOptions options;
#define PYTHIA_RT_SAMPLING_OPTION(type, name, off, least, most, range) options.name = name;
#include "sampling/options.inc"
#undef PYTHIA_RT_SAMPLING_OPTION
             options.logit_bias.assign(logit_bias.begin(), logit_bias.end());
             options.seed = seed;
             return new GuardedSampler{Sampler(n_tokens, options), {}};
           }),
           py::kw_only(), py::arg("n_tokens"),
#define PYTHIA_RT_SAMPLING_OPTION(type, name, off, least, most, range) \
  py::arg(#name) = static_cast<type>(off),
#include "sampling/options.inc"
#undef PYTHIA_RT_SAMPLING_OPTION
           py::arg("logit_bias") = std::map<int32_t, float>(), py::arg("seed") = 0,
           "Raises ValueError that names the first option out of its range.")
      .def(
          "accept_prompt",
          [](GuardedSampler& self, const TokenArray& tokens) {
            const auto count = static_cast<size_t>(count_tokens(tokens));
            const auto lock = self.lock();
            self.sampler.accept_prompt(tokens.data(), count);
          },
          py::arg("tokens"), "Adds prompt tokens [n] to what the repetition penalty has seen.")
      .def(
          "allow",
          [](GuardedSampler& self, const MaskArray& mask) {
            const auto lock = self.lock();
            const auto n = static_cast<py::ssize_t>(self.sampler.n_mask_words());
            if (mask.ndim() != 1 || mask.size() != n) {
              throw_invalid("a mask must be a one-dimensional array of ", n, " uint32, not of ",
                            mask.size(), " in ", mask.ndim(), " dimensions");
            }
            self.sampler.allow(mask.data());
          },
          py::arg("mask"),
          "Has the next call of sample, whether it fails or not, draw only ids whose bit is set:\n"
          "bit i % 32 of word i // 32 of the mask [ceil(n_tokens / 32)] for the id i.")
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
