#include "forward/points.h"

#include "base/error.h"
#include "model/layout.h"

namespace pythia_rt {

namespace {

constexpr const char* kNames[] = {
#define PYTHIA_RT_POINT(name, in_layers, width, exists) #name,
#include "forward/points.inc"
#undef PYTHIA_RT_POINT
};

}  // namespace

std::vector<PointFacts> points_of(const Spec& spec) {
  std::vector<PointFacts> points;
#define PYTHIA_RT_POINT(name, in_layers, width, exists) \
  if (exists) points.push_back({Point::name, #name, in_layers, width});
#include "forward/points.inc"
#undef PYTHIA_RT_POINT
  return points;
}

PointFacts facts_of(const Spec& spec, const Place& place) {
  const char* name = name_of(place.point);
  for (const PointFacts& facts : points_of(spec)) {
    if (facts.point != place.point) continue;
    if (facts.in_layers && (place.layer < 0 || place.layer >= spec.n_layers)) {
      throw_invalid("the point '", name, "' is in the layers 0 to ", spec.n_layers - 1, ", not in ",
                    place.layer);
    }
    if (!facts.in_layers && place.layer != -1) {
      throw_invalid("the point '", name, "' is in no layer: its layer is -1, not ", place.layer);
    }
    return facts;
  }
  throw_invalid("this model has no point '", name, "'");
}

const char* name_of(Point point) { return kNames[static_cast<int>(point)]; }

Point point_from_name(const std::string& name) {
  std::string names;
  int index = 0;
  for (const char* known : kNames) {
    if (name == known) return static_cast<Point>(index);
    names += std::string(index++ == 0 ? "" : ", ") + known;
  }
  throw_invalid("there is no point '", name, "'; there are ", names);
}

}  // namespace pythia_rt
