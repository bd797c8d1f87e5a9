#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/half.h"
#include "bindings/array_memory.h"
#include "bindings/arrays.h"
#include "bindings/bound_session.h"
#include "bindings/edits.h"
#include "bindings/gil.h"
#include "bindings/module.h"
#include "bindings/python_sink.h"
#include "bindings/run_options.h"
#include "engine/passes.h"
#include "forward/run_probe.h"

namespace pythia_rt {

namespace {

// What there is of each session: as many as there are of them.
template <typename List>
void check_count(const std::optional<List>& list, size_t n_sessions, const char* what) {
  if (list && list->size() != n_sessions) {
    throw_invalid("there are ", what, " of ", list->size(), " texts for ", n_sessions, " sessions");
  }
}

// A run under way. Made and destroyed with the lock, while nobody else uses the sessions.
class Run {
 public:
  Run(const std::vector<BoundSession*>& sessions, const std::vector<TokenArray>& tokens,
      Options options, const py::object& sink)
      : sessions_(sessions), options_(std::move(options)), course_(spec(), options_) {
    check_counts(tokens.size());
    if (!sink.is_none()) {
      if (!py::isinstance<py::function>(sink) && PyCallable_Check(sink.ptr()) == 0) {
        throw_invalid("the sink is no function");
      }
      sink_ =
          std::make_unique<PythonSink>(py::reinterpret_borrow<py::function>(sink), options_.half);
    }
    for (size_t i = 0; i < sessions.size(); ++i) add(i, tokens[i]);
    probe_ = std::make_unique<RunProbe>(
        spec(), model().weights(), make_editor(), Captures(wanted_, options_.half, sink_.get()),
        PatternCaptures(spec().n_heads, options_.half, sink_.get()));
    if (options_.targets) probe_->pattern_captures().set_targets(targets(), wanted_);
    make_room();
    if (course_.layers()) probe_->take_layers(*course_.layers());
    if (options_.residuals) probe_->start_with(streams(tokens));
  }

  void run() {
    const GilRelease release;
    append_and_run(requests_, tokens_, [&] { release.check_signals(); }, probe());
    sessions_.front()->model().check_memory();
  }

  py::object logits() {
    if (options_.logits == LogitsOf::none) return py::none();
    if (options_.logits == LogitsOf::last) {
      for (const BoundSession* session : sessions_) {
        const auto& last = const_cast<BoundSession*>(session)->sequence().last_logits();
        logits_.push_back(FloatArray({int64_t{1}, spec().vocab_size}, last.data()));
      }
    }
    return py::cast(logits_);
  }
  const std::vector<py::object>& captured() const { return captured_; }

 private:
  Model& model() const { return sessions_.front()->sequence().model(); }
  const Spec& spec() const { return model().spec(); }
  // Null where nobody looks: then the run is an ordinary one.
  Probe* probe() {
    const bool is_used =
        !options_.capture.empty() || options_.edits || options_.residuals || course_.layers();
    return is_used ? probe_.get() : nullptr;
  }

  void check_counts(size_t n_arrays) const {
    if (sessions_.size() != n_arrays) {
      throw_invalid("there are ", sessions_.size(), " sessions for ", n_arrays, " token arrays");
    }
    check_count(options_.positions, n_arrays, "positions");
    check_count(options_.edits, n_arrays, "edits");
    check_count(options_.residuals, n_arrays, "residuals");
    check_count(options_.targets, n_arrays, "targets");
  }

  void add(size_t i, const TokenArray& tokens) {
    Sequence& sequence = sessions_[i]->sequence();
    const int64_t count = count_tokens(tokens);
    requests_.push_back({&sequence, count});
    tokens_.push_back(tokens.data());
    WantedTokens wanted{sequence.position(), count, std::nullopt};
    if (options_.positions && (*options_.positions)[i]) {
      const NumberArray& numbers = *(*options_.positions)[i];
      if (numbers.ndim() != 1) throw_invalid("positions must be one-dimensional arrays of int64");
      wanted.numbers = increasing(numbers, count, "positions");
    }
    wanted_.push_back(std::move(wanted));
    if (options_.residuals && sequence.n_waiting() > 0) {
      throw_invalid("the session has tokens that wait, and of which there are no residuals");
    }
    switch (options_.logits) {
      case LogitsOf::all:
        logits_.push_back(logits_array(sequence, count));
        requests_.back().logits = logits_.back().mutable_data();
        break;
      case LogitsOf::last:
        break;
      case LogitsOf::none:
        requests_.back().only_probed = true;
        break;
    }
  }

  Editor make_editor() const {
    std::vector<const Edits*> edits(sessions_.size());
    if (options_.edits) edits = edits_of(*options_.edits, model());
    Editor editor(std::move(edits));
    for (const Place& place : editor.places()) course_.check(place);
    return editor;
  }

  void make_room() {
    for (const auto& [name, layer] : options_.capture) {
      if (!named_.insert({name, layer}).second)
        throw_invalid("the point '", name, "' is named twice");
      if (name == kSums) {
        course_.check({Point::pattern, layer});
        add_sums(layer);
        continue;
      }
      const Place place{point_from_name(name), layer};
      course_.check(place);
      const int64_t width = facts_of(spec(), place).width;
      if (width == kWideAsKeys) {
        add_rows_of_keys(place);
      } else {
        add_rows(place, width);
      }
    }
  }

  void add_rows(const Place& place, int64_t width) {
    int64_t n_wanted = 0;
    for (const WantedTokens& wanted : wanted_) n_wanted += wanted.n_wanted();
    void* out = nullptr;
    if (sink_ == nullptr) {
      py::array array = new_array(options_.half, {n_wanted, width});
      out = array.mutable_data();
      captured_.push_back(std::move(array));
    }
    probe_->captures().add(place, captured_index(), out);
  }

  // An array for each text, filled with what is where no key is seen.
  void add_rows_of_keys(const Place& place) {
    check_beginnings(name_of(place.point));
    std::vector<PatternCaptures::Out> outs;
    py::list arrays;
    for (size_t i = 0; i < sessions_.size() && sink_ == nullptr; ++i) {
      const int64_t n = wanted_[i].n_wanted(),
                    n_keys = wanted_[i].first_position + wanted_[i].count;
      py::array array = new_array(options_.half, {spec().n_heads, n, n_keys});
      const float unseen =
          place.point == Point::scores ? -std::numeric_limits<float>::infinity() : 0.0f;
      if (options_.half) {
        std::fill_n(static_cast<uint16_t*>(array.mutable_data()), array.size(),
                    half_from_float(unseen));
      } else {
        std::fill_n(static_cast<float*>(array.mutable_data()), array.size(), unseen);
      }
      outs.push_back({array.mutable_data(), n, n_keys});
      arrays.append(array);
    }
    if (sink_ == nullptr) captured_.push_back(arrays);
    probe_->pattern_captures().add(place, captured_index(), std::move(outs));
  }

  void add_sums(int64_t layer) {
    if (!options_.targets) throw_invalid("'", kSums, "' needs targets");
    check_beginnings(kSums);
    int64_t n_queries = 0;
    for (const WantedTokens& wanted : wanted_) n_queries += wanted.count;
    FloatArray sums({spec().n_heads, n_queries});
    probe_->pattern_captures().add_sums(layer, sums.mutable_data());
    captured_.push_back(std::move(sums));
  }

  // Of what is captured at hand, in its list.
  size_t captured_index() const { return named_.size() - 1; }

  void check_beginnings(const char* name) const {
    for (const BoundSession* session : sessions_) {
      const int64_t length = const_cast<BoundSession*>(session)->sequence().cache().length();
      if (length > 0) {
        throw_invalid("'", name,
                      "' is of texts from their first token on, and the session has read ", length,
                      " tokens before");
      }
    }
  }

  std::vector<Targets> targets() const {
    std::vector<Targets> targets;
    for (size_t i = 0; i < wanted_.size(); ++i) {
      const auto& [starts, keys] = (*options_.targets)[i];
      const int64_t count = wanted_[i].count;
      bool fits = starts.ndim() == 1 && keys.ndim() == 1 && starts.size() == count + 1 &&
                  starts.data()[0] == 0 && starts.data()[count] == keys.size();
      for (int64_t j = 0; fits && j < count; ++j) fits = starts.data()[j] <= starts.data()[j + 1];
      for (int64_t j = 0; fits && j < keys.size(); ++j) fits = keys.data()[j] >= 0;
      if (!fits) {
        throw_invalid("the targets of ", count, " queries are starts [", count + 1,
                      "], from 0 to the number of keys, and those keys, int64 both");
      }
      targets.push_back({{starts.data(), starts.data() + starts.size()},
                         {keys.data(), keys.data() + keys.size()}});
    }
    return targets;
  }

  std::vector<RunProbe::Stream> streams(const std::vector<TokenArray>& tokens) const {
    std::vector<RunProbe::Stream> streams;
    for (size_t i = 0; i < tokens.size(); ++i) {
      const FloatArray& rows = (*options_.residuals)[i];
      if (rows.ndim() != 2 || rows.shape(0) != tokens[i].size() ||
          rows.shape(1) != spec().hidden_size) {
        throw_invalid("the residuals of ", tokens[i].size(), " tokens are an array [",
                      tokens[i].size(), ", ", spec().hidden_size, "] of float32");
      }
      streams.push_back({rows.data(), wanted_[i].first_position});
    }
    return streams;
  }

  const std::vector<BoundSession*>& sessions_;
  Options options_;
  Course course_;
  std::unique_ptr<PythonSink> sink_;
  std::vector<Request> requests_;
  std::vector<const int32_t*> tokens_;
  std::vector<WantedTokens> wanted_;
  std::vector<FloatArray> logits_;
  std::set<NamedPlace> named_;  // of what is captured
  std::vector<py::object> captured_;
  std::unique_ptr<RunProbe> probe_;
};

std::pair<py::object, std::vector<py::object>> run(
    const std::vector<BoundSession*>& sessions, const std::vector<TokenArray>& tokens,
    std::vector<NamedPlace> capture,
    std::optional<std::vector<std::optional<NumberArray>>> positions,
    std::optional<std::vector<py::object>> edits, const std::string& logits, int64_t first_layer,
    std::optional<std::vector<FloatArray>> residuals, std::optional<std::vector<int64_t>> layers,
    std::optional<int64_t> end_layer, bool half, const py::object& sink,
    std::optional<std::vector<std::pair<NumberArray, NumberArray>>> targets) {
  if (sessions.empty()) throw_invalid("there is no session to run");
  const auto locks = claim_all(sessions);
  Run run(
      sessions, tokens,
      {std::move(capture), std::move(positions), std::move(edits), logits_named(logits),
       first_layer, std::move(residuals), std::move(layers), end_layer, half, std::move(targets)},
      sink);
  run.run();
  return {run.logits(), run.captured()};
}

}  // namespace

void bind_run(py::module_& module) {
  bind_edits(module);
  module.def(
      "run", &run, py::arg("sessions"), py::arg("tokens"), py::kw_only(),
      py::arg("capture") = std::vector<NamedPlace>(), py::arg("positions") = py::none(),
      py::arg("edits") = py::none(), py::arg("logits") = "all", py::arg("first_layer") = 0,
      py::arg("residuals") = py::none(), py::arg("layers") = py::none(),
      py::arg("end_layer") = py::none(), py::arg("half") = false, py::arg("sink") = py::none(),
      py::arg("targets") = py::none(),
      "Appends tokens [n_i] to each session in shared passes, and looks inside: returns the "
      "logits\n"
      "and what is at each place of `capture`, [wanted tokens of all sessions, width].\n\n"
      "A place is a point's name (Model.points) and its layer, -1 for a point in none. Captured "
      "is\n"
      "what the passes go on with, after edits; in float32 or, with `half`, in float16, where "
      "what\n"
      "is too large is infinite. `positions` are of each session the indices of the wanted tokens\n"
      "among its `tokens`, int64 that increase, or None for all. With a `sink` nothing is "
      "returned:\n"
      "sink(index in `capture`, number of the session, positions int64 [n] in it, rows [n, "
      "width])\n"
      "is called in each pass.\n\n"
      "`edits` are of each session Edits or None. The logits are 'all', a list of [n_i, "
      "vocab_size],\n"
      "'last', of [1, vocab_size], or 'none': None, and then the final norm runs only if it is\n"
      "captured, the head does not, and no logits are kept. The layers that run are those from\n"
      "`first_layer` on, up to and without `end_layer`, or `layers` in their order; they begin "
      "with\n"
      "`residuals` [n_i, hidden_size] of each session, if there are any, instead of the "
      "embedding.\n"
      "Such a session goes on with the same layers only.\n\n"
      "'scores' and 'pattern' of sessions that were empty are lists, [n_heads, wanted tokens, "
      "keys]\n"
      "of each session, or in a sink [n_heads, n, keys so far]. Besides points there is\n"
      "('attention_to', layer), float32 [n_heads, tokens of all sessions]: how much of the "
      "pattern\n"
      "is on `targets`, of each session (starts int64 [n_i + 1], keys int64), where query j is\n"
      "asked about the positions keys[starts[j] : starts[j + 1]]. Scores have what the model\n"
      "leaves out of keys (Model.set_left_out).\n\n"
      "Raises ValueError before anything is appended, and what edits and the sink raise, which\n"
      "stops the run.");
}

}  // namespace pythia_rt
