#include <pybind11/stl.h>

#include <atomic>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/distinct.h"
#include "bindings/arrays.h"
#include "bindings/bound_session.h"
#include "bindings/edits.h"
#include "bindings/exceptions.h"
#include "bindings/gil.h"
#include "bindings/module.h"
#include "bindings/python_hook.h"
#include "formats/kv_formats.h"
#include "writing/lookup_draft.h"
#include "writing/model_draft.h"
#include "writing/write.h"

namespace pythia_rt {

namespace {

using IdArray = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;
using BitArray = py::array_t<uint32_t, py::array::c_style | py::array::forcecast>;

// A draft, and whether a text has it.
struct BoundDraft {
  std::unique_ptr<Draft> draft;
  bool is_taken = false;
};

struct Wake {
  std::atomic<bool> flag{false};
};

template <typename Value, typename Array>
std::vector<Value> vector_of(const Array& array) {
  return {array.data(), array.data() + array.size()};
}

template <typename Value>
py::array_t<Value> array_of(const std::vector<Value>& values) {
  return py::array_t<Value>(static_cast<py::ssize_t>(values.size()), values.data());
}

// [tokens][n_top]
template <typename Value>
py::array_t<Value> table_of(const std::vector<Value>& values, const Judged& judged) {
  const auto n = static_cast<py::ssize_t>(judged.tokens.size());
  py::array_t<Value> table({n, n == 0 ? 0 : static_cast<py::ssize_t>(values.size()) / n});
  std::copy(values.begin(), values.end(), table.mutable_data());
  return table;
}

// A writer, and what of Python's it needs.
class BoundWriter {
 public:
  BoundWriter(py::object session, py::object sampler, WriterOptions options, py::object draft,
              py::object hook, py::object edits)
      : session_(std::move(session)),
        sampler_(std::move(sampler)),
        draft_(std::move(draft)),
        hook_(hook.is_none() ? nullptr
                             : std::make_unique<PythonHook>(
                                   std::move(hook), this->sampler().sampler.n_mask_words())),
        edits_(std::move(edits)),
        writer_(sequence(), sampler_.cast<GuardedSampler&>().sampler, std::move(options),
                taken(draft_), hook_.get(), edits_of({edits_}, sequence().model()).front()) {}

  BoundSession& session() const { return session_.cast<BoundSession&>(); }
  GuardedSampler& sampler() const { return sampler_.cast<GuardedSampler&>(); }
  // For those who hold the session's lock.
  Writer& writer() { return writer_; }

  // Calls function(writer), while nobody else uses the session.
  template <typename Function>
  auto with(const Function& function) {
    const auto lock = claim(session().mutex(), "session");
    return function(writer_);
  }

 private:
  Sequence& sequence() const { return session().sequence(); }

  static Draft* taken(const py::object& draft) {
    if (draft.is_none()) return nullptr;
    auto& bound = draft.cast<BoundDraft&>();
    if (std::exchange(bound.is_taken, true)) throw_invalid("the draft is another text's");
    return bound.draft.get();
  }

  py::object session_, sampler_, draft_;
  std::unique_ptr<PythonHook> hook_;
  py::object edits_;
  Writer writer_;
};

std::vector<size_t> write_texts(const std::vector<BoundWriter*>& writers, Pace& pace,
                                std::optional<Wake*> wake, double seconds, int64_t max_rows) {
  std::vector<GuardedSampler*> samplers;
  std::vector<BoundSession*> sessions;
  for (const BoundWriter* writer : writers) {
    samplers.push_back(&writer->sampler());
    sessions.push_back(&writer->session());
  }
  check_distinct(sessions, "session");
  check_distinct(samplers, "sampler");
  const GilRelease release;
  std::vector<std::unique_lock<ForkSafeMutex>> locks;
  std::vector<Writer*> texts;
  for (size_t i = 0; i < writers.size(); ++i) {
    locks.push_back(claim(sessions[i]->mutex(), "session"));
    locks.push_back(samplers[i]->lock());
    texts.push_back(&writers[i]->writer());
  }
  const WriteOptions options{seconds, max_rows == 0 ? kMaxRows : max_rows,
                             !wake || *wake == nullptr ? nullptr : &(*wake)->flag};
  std::vector<size_t> wanting = write(texts, pace, options, [&] { release.check_signals(); });
  if (!sessions.empty()) sessions.front()->model().check_memory();
  return wanting;
}

void bind_drafts(py::module_& module) {
  py::class_<BoundDraft>(module, "Draft", py::module_local(),
                         "Guesses what comes next in one text, which it never changes.");
  module.def(
      "lookup_draft",
      [](const IdArray& text, const IdArray& predicted) {
        return BoundDraft{
            std::make_unique<LookupDraft>(vector_of<int32_t>(predicted), vector_of<int32_t>(text))};
      },
      py::arg("text"), py::arg("predicted") = IdArray(0),
      "A draft of what followed the last tokens where they stood before: in `text`, the ids of "
      "the\n"
      "prompt, in what is written, and in `predicted`.");
  module.def(
      "model_draft",
      [](const std::shared_ptr<BoundModel>& model, const IdArray& text, int32_t n_tokens,
         const std::string& kv_format) {
        return BoundDraft{std::make_unique<ModelDraft>(
            std::shared_ptr<Model>(model, model->model.get()), kv_format_from_name(kv_format),
            n_tokens, vector_of<int32_t>(text))};
      },
      py::arg("model"), py::arg("text"), py::kw_only(), py::arg("n_tokens"),
      py::arg("kv_format") = "f16",
      "A draft of what another model finds likeliest after `text`, the ids of the prompt, among "
      "the\n"
      "first n_tokens ids.");
}

}  // namespace

void bind_writing(py::module_& module) {
  bind_drafts(module);

  py::class_<Judged>(module, "Judged", py::module_local(),
                     "Tokens [n] and how likely the model finds them, before any sampling step.")
      .def_property_readonly("tokens", [](const Judged& self) { return array_of(self.tokens); })
      .def_property_readonly(
          "logprobs", [](const Judged& self) { return array_of(self.log_probabilities); },
          "float32 [n].")
      .def_property_readonly(
          "top_ids", [](const Judged& self) { return table_of(self.top_ids, self); },
          "The likeliest in each one's place, the likeliest first: int32 [n, top].")
      .def_property_readonly(
          "top_logprobs",
          [](const Judged& self) { return table_of(self.top_log_probabilities, self); },
          "Theirs: float32 [n, top].");
  py::class_<Written, Judged>(module, "Written", py::module_local(),
                              "New tokens, and how many guesses led to them.")
      .def_readonly("proposed", &Written::n_proposed, "Tokens that the draft proposed.")
      .def_readonly("accepted", &Written::n_accepted, "Those of them that were right.");

  py::class_<Pace>(module, "Pace", py::module_local(),
                   "What passes take here, as measured, and how many rows of prompts fit into one.")
      .def(py::init<std::optional<double>>(), py::arg("seconds") = py::none(),
           "`seconds` between two tokens of a text while prompts are read; None: 1.6 times what a\n"
           "pass without prompts takes, at least 0.01. Infinity: prompts fill every pass.");

  py::class_<Wake>(module, "Wake", py::module_local(), "Ends write() after the pass at hand.")
      .def(py::init<>())
      .def("set", [](Wake& self) { self.flag = true; }, "From any thread.");

  py::class_<BoundWriter>(module, "Writer", py::module_local(),
                          "A text that is being written: see write() of the module.")
      .def(
          py::init([](py::object session, py::object sampler, int64_t max_tokens,
                      const IdArray& end_ids, const std::optional<BitArray>& watch, int64_t top,
                      bool echo, py::object draft, py::object hook, py::object edits,
                      std::optional<BoundWriter*> after) {
            static_cast<void>(session.cast<BoundSession&>());
            static_cast<void>(sampler.cast<GuardedSampler&>());
            WriterOptions options{max_tokens, vector_of<int32_t>(end_ids), {}, top, echo};
            if (watch) options.watched = vector_of<uint32_t>(*watch);
            auto writer = std::make_unique<BoundWriter>(std::move(session), std::move(sampler),
                                                        std::move(options), std::move(draft),
                                                        std::move(hook), std::move(edits));
            if (after) (*after)->with([&](Writer& other) { writer->writer().see_what(other); });
            return writer;
          }),
          py::arg("session"), py::arg("sampler"), py::kw_only(), py::arg("max_tokens"),
          py::arg("end_ids") = IdArray(0), py::arg("watch") = py::none(), py::arg("top") = 0,
          py::arg("echo") = false, py::arg("draft") = py::none(), py::arg("hook") = py::none(),
          py::arg("edits") = py::none(), py::arg("after") = py::none(),
          "Continues what is in the session and waits there, with at most max_tokens tokens, 0 to\n"
          "read only, up to one of end_ids.\n\n"
          "`watch`, uint32 [vocab_size / 32], has a bit for each id after which write() is to\n"
          "return. `top` likeliest tokens are named at each place; with `echo` also at those of\n"
          "the tokens that wait. A hook has the flags `masks` and `changes`, which say whether\n"
          "allowed() -> uint32 bits or None and change(logits) are called before each token, and\n"
          "accept(token), called after it; what it raises ends this text alone. `edits` are Edits, "
          "made\n"
          "in all passes of this text; what they raise ends it likewise, but a pass with guesses "
          "is\n"
          "taken back first, and the next one has none. `after` is the writer that has read what "
          "is in\n"
          "the session, or in the one it is a fork of, with the same edits: those of scores and\n"
          "patterns know of it what they have to.")
      .def(
          "take",
          [](BoundWriter& self) { return self.with([](Writer& writer) { return writer.take(); }); },
          "What was written since the last call.")
      .def(
          "take_echo",
          [](BoundWriter& self) {
            return self.with([](Writer& writer) { return writer.take_echo(); });
          },
          "What was read since the last call, but for the first token.")
      .def_property_readonly(
          "n_tokens",
          [](BoundWriter& self) {
            return self.with([](Writer& writer) { return writer.n_tokens(); });
          },
          "Tokens that it has written.")
      .def_property_readonly(
          "has_ended",
          [](BoundWriter& self) {
            return self.with([](Writer& writer) { return writer.has_ended(); });
          },
          "It has all its tokens, has written one of end_ids, or has failed.")
      .def_property_readonly(
          "error",
          [](BoundWriter& self) -> py::object {
            const std::exception_ptr error =
                self.with([](Writer& writer) { return writer.error(); });
            return error == nullptr ? py::object(py::none()) : exception_of(error);
          },
          "What made it fail, an exception; or None.");

  module.def(
      "write", &write_texts, py::arg("writers"), py::kw_only(), py::arg("pace"),
      py::arg("wake") = py::none(), py::arg("seconds") = 0.02, py::arg("max_rows") = 0,
      "Runs passes over all texts until one of them has ended or written a token that it watches\n"
      "for, `seconds` have gone, or `wake` was set; returns the indices of such texts.\n\n"
      "Texts that wait for one token come first, then prompts in order, in passes of at most\n"
      "`max_rows` rows (0: as many as a pass takes). Raises MemoryError where the cache has no\n"
      "room, and then the texts are as they were after the last pass.");
}

}  // namespace pythia_rt
