// A draft that costs nothing: what followed the last few tokens when they stood here before.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "writing/draft.h"

namespace pythia_rt {

// Looks in the text and, before it, in a text that somebody predicts. (Prompt lookup decoding:
// A. Saxena, 2023.)
class LookupDraft : public Draft {
 public:
  LookupDraft(const std::vector<int32_t>& predicted, const std::vector<int32_t>& text);

  void extend(int32_t token) override;
  int64_t propose(int64_t count, int32_t* out, FunctionRef<void()> interrupt) override;
  bool is_free() const override { return true; }
  double seconds() const override { return 0; }

 private:
  static constexpr std::size_t kShortest = 2, kLongest = 4;  // tokens that must agree

  void append(int32_t token);
  void note_grams();
  uint64_t gram(std::size_t length) const;
  std::optional<std::size_t> find() const;

  std::vector<int32_t> tokens_;  // the predicted ones, then the text
  std::size_t n_predicted_;
  // The place in tokens_ of what is expected next, as long as what came was what stood there. A
  // prediction is expected to begin where the text does.
  std::optional<std::size_t> followed_;
  // For each length, of every run of so many tokens the place behind the last one but the run at
  // the end.
  std::array<std::unordered_map<uint64_t, std::size_t>, kLongest - kShortest + 1> places_;
};

}  // namespace pythia_rt
