#include "bindings/run_options.h"

#include <algorithm>
#include <set>

#include "base/error.h"

namespace pythia_rt {

namespace {

// The layers that run, or null for all of them in order.
std::optional<std::vector<int64_t>> layers_of(const Spec& spec, const Options& options) {
  const int64_t n = spec.n_layers;
  if (options.layers) {
    if (options.first_layer != 0 || options.end_layer) {
      throw_invalid(
          "a list of layers says where a run begins and ends: give no first_layer and no ",
          "end_layer beside it");
    }
    std::set<int64_t> seen;
    for (const int64_t layer : *options.layers) {
      if (layer < 0 || layer >= n) {
        throw_invalid("the model has the layers 0 to ", n - 1, ", and none of number ", layer);
      }
      if (!seen.insert(layer).second) throw_invalid("layer ", layer, " can run only once");
    }
    return options.layers;
  }
  const int64_t first = options.first_layer, end = options.end_layer.value_or(n);
  if (first < 0 || end > n || first > end) {
    throw_invalid("the model has the layers 0 to ", n - 1, ", and a run cannot go from ", first,
                  " to before ", end);
  }
  if (first > 0 && !options.residuals) {
    throw_invalid("a run that begins at layer ", first, " needs the residuals there");
  }
  if (options.end_layer && options.logits != LogitsOf::none) {
    throw_invalid("a run that stops before layer ", end, " has no logits: ask for 'none'");
  }
  if (first == 0 && end == n) return std::nullopt;
  std::vector<int64_t> layers;
  for (int64_t layer = first; layer < end; ++layer) layers.push_back(layer);
  return layers;
}

}  // namespace

LogitsOf logits_named(const std::string& name) {
  if (name == "all") return LogitsOf::all;
  if (name == "last") return LogitsOf::last;
  if (name == "none") return LogitsOf::none;
  throw_invalid("logits are 'all', 'last' or 'none', not '", name, "'");
}

Course::Course(const Spec& spec, const Options& options)
    : spec_(spec),
      layers_(layers_of(spec, options)),
      embeds_(!options.residuals),
      ends_(options.end_layer.value_or(spec.n_layers) == spec.n_layers) {}

void Course::check(const Place& place) const {
  const PointFacts facts = facts_of(spec_, place);
  if (facts.in_layers) {
    if (!layers_ || std::count(layers_->begin(), layers_->end(), place.layer) > 0) return;
    throw_invalid("layer ", place.layer, " does not run: nothing is at its point '", facts.name,
                  "'");
  }
  if (place.point == Point::final_norm ? ends_ : embeds_) return;
  throw_invalid("the run does not come to the point '", facts.name, "'");
}

}  // namespace pythia_rt
