// Makes each text's edits in the passes that it takes part in.
#pragma once

#include <cstdint>
#include <exception>
#include <set>
#include <vector>

#include "forward/edits.h"
#include "forward/probe.h"

namespace pythia_rt {

class Editor {
 public:
  // The edits of each text, by its number: null for none. What a function throws is thrown; or, if
  // it is to be kept, ends the edits of its text alone.
  explicit Editor(std::vector<const Edits*> texts, bool keeps_errors = false);

  bool wants(const Place& place) const { return places_.count(place) != 0; }
  const std::set<Place>& places() const { return places_; }
  void at(const Place& place, Backend& backend, Rows values, const std::vector<TextRows>& rows);

  // Of a text whose edits go on: null where there are none there.
  const std::vector<Edit>* edits(const Place& place, int64_t text) const;
  // Calls function(), which may throw on behalf of the text.
  template <typename Function>
  void on_behalf(int64_t text, const Function& function) {
    if (!keeps_errors_) return function();
    try {
      function();
    } catch (const std::exception&) {
      errors_[static_cast<size_t>(text)] = std::current_exception();
    }
  }
  const std::exception_ptr& error(int64_t text) const { return errors_[static_cast<size_t>(text)]; }

 private:
  void change_by_functions(const std::vector<Edit>& edits, Backend& backend, Rows values,
                           const TextRows& text);

  std::vector<const Edits*> texts_;
  std::set<Place> places_;
  bool keeps_errors_;
  std::vector<std::exception_ptr> errors_;  // of the texts
  std::vector<float> rows_;                 // of one text, close together
  std::vector<float> chosen_;               // of those, the ones that a function is about
};

// Calls an edit's function for its positions among consecutive ones, whose values are [n][size]
// close together. `shape` is that of one position's; `chosen` is scratch.
void call_function(const Edit& edit, float* values, int64_t n, const std::vector<int64_t>& shape,
                   int64_t first_position, std::vector<float>& chosen);

}  // namespace pythia_rt
