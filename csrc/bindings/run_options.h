// What a run is asked for beside its sessions and tokens.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/edits.h"
#include "forward/points.h"
#include "model/spec.h"

namespace pythia_rt {

using NamedPlace = std::pair<std::string, int64_t>;  // a point, and its layer or -1

enum class LogitsOf { all, last, none };

// Throws std::invalid_argument for a name that is none.
LogitsOf logits_named(const std::string& name);

// What run() is given beside sessions and tokens.
struct Options {
  std::vector<NamedPlace> capture;
  std::optional<std::vector<std::optional<NumberArray>>> positions;
  std::optional<std::vector<py::object>> edits;
  LogitsOf logits;
  int64_t first_layer;
  std::optional<std::vector<FloatArray>> residuals;
  std::optional<std::vector<int64_t>> layers;
  std::optional<int64_t> end_layer;
  bool half;
  std::optional<std::vector<std::pair<NumberArray, NumberArray>>> targets;
};

constexpr const char* kSums = "attention_to";  // a name to capture that is no point

// Where a run comes to.
class Course {
 public:
  // Throws std::invalid_argument for layers that cannot run so.
  Course(const Spec& spec, const Options& options);

  // The layers that run, or null for all of them in order.
  const std::optional<std::vector<int64_t>>& layers() const { return layers_; }

  // Throws std::invalid_argument for a place that the run does not come to.
  void check(const Place& place) const;

 private:
  const Spec& spec_;
  std::optional<std::vector<int64_t>> layers_;
  bool embeds_, ends_;
};

}  // namespace pythia_rt
