#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/bound_session.h"
#include "bindings/module.h"
#include "engine/passes.h"
#include "formats/kv_formats.h"

namespace pythia_rt {

namespace {

using PageArray = py::array_t<uint8_t, py::array::c_style>;

}  // namespace

void bind_session(py::module_& module) {
  py::class_<BoundSession>(module, "Session", py::module_local(),
                           "One sequence: its cache, and the logits after its last token.")
      .def(py::init([](const std::shared_ptr<BoundModel>& model, int64_t capacity,
                       const std::string& kv_format) {
             return std::make_unique<BoundSession>(model, capacity, kv_format_from_name(kv_format));
           }),
           py::arg("model"), py::kw_only(), py::arg("capacity") = 0, py::arg("kv_format") = "f16",
           "Room for `capacity` tokens (0: the model's context), cached in one "
           "of\nkv_format_names().")
      .def_property_readonly(
          "position", [](BoundSession& self) { return self.sequence().position(); },
          "Tokens so far, those that wait for a pass included.")
      .def_property_readonly(
          "capacity", [](BoundSession& self) { return self.sequence().capacity(); },
          "Tokens that it has room for.")
      .def(
          "prefill",
          [](BoundSession& self, const TokenArray& tokens) {
            const int64_t count = count_tokens(tokens);
            self.run([&](Sequence& sequence, const auto& interrupt) {
              append_and_run({{&sequence, count}}, {tokens.data()}, interrupt);
            });
          },
          py::arg("tokens"), "Appends tokens [n]; the logits after the last one are kept.")
      .def(
          "append",
          [](BoundSession& self, const TokenArray& tokens) {
            const int64_t count = count_tokens(tokens);
            self.run(
                [&](Sequence& sequence, const auto&) { sequence.append(tokens.data(), count); });
          },
          py::arg("tokens"),
          "Appends tokens [n], which wait for a pass: see write() of the module.")
      .def(
          "logits",
          [](BoundSession& self, const TokenArray& tokens) {
            const int64_t count = count_tokens(tokens);
            FloatArray out = logits_array(self.sequence(), count);
            float* data = out.mutable_data();
            self.run([&](Sequence& sequence, const auto& interrupt) {
              append_and_run({{&sequence, count, data}}, {tokens.data()}, interrupt);
            });
            return out;
          },
          py::arg("tokens"), "Appends tokens [n]; returns the logits [n, vocab_size] after each.")
      .def_property_readonly(
          "last_logits",
          [](BoundSession& self) {
            const std::vector<float>& logits = self.sequence().last_logits();
            return FloatArray(static_cast<py::ssize_t>(logits.size()), logits.data());
          },
          "A copy of the kept logits [vocab_size].")
      .def(
          "step",
          [](BoundSession& self, GuardedSampler& sampler) {
            const SampledToken sampled = self.run([&](Sequence& sequence, const auto& interrupt) {
              const auto lock = sampler.lock();
              run_to_end({{&sequence}}, interrupt);
              return sequence.sample(sampler.sampler);
            });
            return std::pair(sampled.token, sampled.log_probability);
          },
          py::arg("sampler"),
          "Samples the next token: (id, log-probability under the model's raw distribution).\n\n"
          "Raises ValueError when there are no logits yet or no room is left.")
      .def(
          "rewind",
          [](BoundSession& self, int64_t position) {
            self.run([&](Sequence& sequence, const auto&) { sequence.rewind(position); });
          },
          py::arg("position"), "Forgets everything after the first `position` tokens.")
      .def("fork", &BoundSession::fork,
           "Another session that has come as far. Both share the pages of their caches until one\n"
           "writes into a page.")
      .def_property_readonly(
          "waiting", [](BoundSession& self) { return self.sequence().n_waiting(); },
          "Tokens that wait for a pass.")
      .def_property_readonly(
          "is_ready", [](BoundSession& self) { return self.sequence().is_ready(); },
          "Whether the next token can be sampled: nothing waits, and there are logits.")
      .def(
          "run",
          [](BoundSession& self) {
            self.run([&](Sequence& sequence, const auto& interrupt) {
              run_to_end({{&sequence}}, interrupt);
            });
          },
          "Runs the tokens that wait; the logits after the last one are kept.")
      .def_property_readonly(
          "kv_format",
          [](BoundSession& self) {
            return kv_format_names()[static_cast<size_t>(self.sequence().cache().format())];
          },
          "The number format of its cache.")
      .def_property_readonly(
          "page_bytes", [](BoundSession& self) { return self.sequence().page_bytes(); },
          "Bytes of one page of its cache.")
      .def_property_readonly(
          "pages", [](BoundSession& self) { return self.sequence().n_pages(); },
          "Pages of 128 positions that its cache holds.")
      .def(
          "read_page",
          [](BoundSession& self, int64_t index) {
            py::array_t<uint8_t> bytes(self.sequence().page_bytes());
            auto* data = reinterpret_cast<std::byte*>(bytes.mutable_data());
            self.run([&](Sequence& sequence, const auto&) { sequence.read_page(index, data); });
            return bytes;
          },
          py::arg("index"),
          "The bytes of a page: [layer][head][keys | values | key scales | value scales], zero\n"
          "where there is no position yet.")
      .def(
          "append_page",
          [](BoundSession& self, const PageArray& bytes, int64_t count) {
            if (bytes.size() != self.sequence().page_bytes()) {
              throw_invalid("a page of this session has ", self.sequence().page_bytes(),
                            " bytes, not ", bytes.size());
            }
            const auto* data = reinterpret_cast<const std::byte*>(bytes.data());
            self.run([&](Sequence& sequence, const auto&) { sequence.append_page(data, count); });
          },
          py::arg("bytes"), py::arg("count"),
          "Becomes `count` tokens longer by a page that a session which had come as far has read.");

  module.attr("PAGE_POSITIONS") = kPagePositions;
}

}  // namespace pythia_rt
