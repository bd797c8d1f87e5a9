// What passes take here, as measured, and what follows from it for the next one.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace pythia_rt {

// Texts that are being written want passes that are over soon; prompts fill what time is left.
// Which rows share a pass never changes what they give. One thread at a time.
class Pace {
 public:
  // `target`: seconds between two tokens of the texts; by default 1.6 times what a pass takes
  // without prompts, and at least a hundredth. Infinity lets prompts fill every pass. Throws
  // std::invalid_argument for no seconds.
  explicit Pace(std::optional<double> target);

  // A pass took so long.
  void note(int64_t n_text_rows, int64_t n_prompt_rows, double seconds);

  // Rows of prompts that fit into a pass with so many of texts.
  int64_t prompt_rows(int64_t n_text_rows) const;

  // What a pass of so many rows of texts takes, estimated from those that were measured; 0 where
  // none was.
  double seconds(int64_t n_text_rows) const;

 private:
  static constexpr int64_t kCounted = 64;  // text rows up to which each count is measured apart

  std::optional<double> target_;
  std::array<double, kCounted + 1> seconds_{};  // by text rows; 0: not measured
  double prompt_row_seconds_ = 0;
};

}  // namespace pythia_rt
