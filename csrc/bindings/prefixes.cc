#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "bindings/arrays.h"
#include "bindings/bound_session.h"
#include "bindings/gil.h"
#include "bindings/module.h"
#include "cache/prefix_index.h"
#include "formats/kv_formats.h"

namespace pythia_rt {

namespace {

// An index, and the model whose pool its pages go back to.
class BoundPrefixes {
 public:
  BoundPrefixes(std::shared_ptr<BoundModel> model, KvFormat format, int64_t budget)
      : model_(std::move(model)), format_(format), index_(model_->model->pool(), format, budget) {
    if (budget < 0) throw_invalid("a budget cannot be ", budget, " bytes");
  }

  PrefixIndex& index() { return index_; }

  void check(BoundSession& session) const {
    const Sequence& sequence = session.sequence();
    if (&sequence.model() != model_->model.get()) throw_invalid("the session is another model's");
    if (session.sequence().cache().format() != format_) {
      throw_invalid("the session's cache has another format than these prefixes");
    }
  }

 private:
  std::shared_ptr<BoundModel> model_;  // outlives the pages
  KvFormat format_;
  PrefixIndex index_;
};

}  // namespace

void bind_prefixes(py::module_& module) {
  py::class_<BoundPrefixes>(
      module, "Prefixes", py::module_local(),
      "Pages of what sessions have read, by its tokens. Sessions whose tokens "
      "begin alike\nshare them. Many threads may use one.")
      .def(py::init([](const std::shared_ptr<BoundModel>& model, const std::string& kv_format,
                       int64_t budget_bytes) {
             return std::make_unique<BoundPrefixes>(model, kv_format_from_name(kv_format),
                                                    budget_bytes);
           }),
           py::arg("model"), py::arg("kv_format"), py::arg("budget_bytes"),
           "For caches in one of kv_format_names(). Holds pages of so many bytes, each counted "
           "once;\nbeyond that the least recently used are dropped.")
      .def(
          "adopt",
          [](BoundPrefixes& self, BoundSession& session, const TokenArray& tokens,
             const py::bytes& name_space) {
            const std::string name = name_space;
            const int64_t count = count_tokens(tokens);
            self.check(session);
            return session.run([&](Sequence& sequence, const auto&) {
              return sequence.adopt(self.index(), name, tokens.data(), count);
            });
          },
          py::arg("session"), py::arg("tokens"), py::arg("namespace") = py::bytes(),
          "An empty session becomes as long as the longest known beginning of the tokens [n], n - "
          "1\nat most: what is after it is to be appended. Returns how long.\n\n"
          "Pages are shared until the session writes into them; the bits are those of reading "
          "the\ntokens. Raises ValueError for a session that is not empty, or of another model.")
      .def(
          "keep",
          [](BoundPrefixes& self, BoundSession& session, const TokenArray& tokens,
             const py::bytes& name_space) {
            const std::string name = name_space;
            const int64_t count = count_tokens(tokens);
            self.check(session);
            session.run([&](Sequence& sequence, const auto&) {
              sequence.keep_in(self.index(), name, tokens.data(), count);
            });
          },
          py::arg("session"), py::arg("tokens"), py::arg("namespace") = py::bytes(),
          "Remembers the session's pages of its first tokens [n], or of those of them that its\n"
          "cache has, which must be the session's.")
      .def(
          "drop",
          [](BoundPrefixes& self, int64_t bytes) {
            const GilRelease release;
            return self.index().drop(bytes);
          },
          py::arg("bytes"),
          "Drops pages of so many bytes, first those that no session holds, the least recently "
          "used\nfirst. Returns the bytes that it no longer holds: 0 if it had none.")
      .def(
          "clear",
          [](BoundPrefixes& self) {
            const GilRelease release;
            self.index().drop(INT64_MAX);
          },
          "Drops all.")
      .def_property_readonly(
          "n_pages", [](BoundPrefixes& self) { return self.index().n_pages(); },
          "Pages that it holds.")
      .def_property_readonly(
          "bytes", [](BoundPrefixes& self) { return self.index().bytes(); },
          "Bytes of these pages.");
}

}  // namespace pythia_rt
