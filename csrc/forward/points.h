// What can be seen and changed of a pass.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/spec.h"

namespace pythia_rt {

enum class Point : int {
#define PYTHIA_RT_POINT(name, in_layers, width, exists) name,
#include "forward/points.inc"
#undef PYTHIA_RT_POINT
};

// A width that says [n_heads][keys].
constexpr int64_t kWideAsKeys = -1;

// A point of one layer, or one that is in none: layer -1.
struct Place {
  Point point;
  int64_t layer = -1;
};
inline bool operator<(const Place& a, const Place& b) {
  return a.layer != b.layer ? a.layer < b.layer : a.point < b.point;
}

struct PointFacts {
  Point point;
  const char* name;
  bool in_layers;
  int64_t width;  // values of a token, or kWideAsKeys
};

// The points that a model with this spec has, in the order of the list.
std::vector<PointFacts> points_of(const Spec& spec);

// Throws std::invalid_argument for a place that a model with this spec does not have.
PointFacts facts_of(const Spec& spec, const Place& place);

const char* name_of(Point point);

// Throws std::invalid_argument for a name that no model has.
Point point_from_name(const std::string& name);

}  // namespace pythia_rt
