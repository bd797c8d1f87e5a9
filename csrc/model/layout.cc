#include "model/layout.h"

namespace pythia_rt {

namespace {

struct Collector {
  std::vector<NamedNorm> norms;
  std::vector<NamedMatrix> matrices;
  std::string prefix;
  int64_t layer = -1;

  void norm(const char* name, const NormWeights&, const NormShape& shape) {
    norms.push_back({prefix + name, name, layer, shape});
  }
  void matrix(const char* name, const Matrix&, const MatrixShape& shape) {
    const std::string reads = shape.reads;
    matrices.push_back({prefix + name, name, layer, shape, reads.empty() ? "" : prefix + reads});
  }
};

Collector collect(const Spec& spec) {
  Collector collector;
  const Weights weights;
  const LayerWeights layer;
  visit_first(spec, weights, collector);
  for (int64_t i = 0; i < spec.n_layers; ++i) {
    collector.layer = i;
    collector.prefix = layer_prefix(i);
    visit_layer(spec, layer, collector);
  }
  collector.layer = -1;
  collector.prefix.clear();
  visit_last(spec, weights, collector);
  return collector;
}

}  // namespace

std::vector<NamedNorm> named_norms(const Spec& spec) { return collect(spec).norms; }

std::vector<NamedMatrix> named_matrices(const Spec& spec) { return collect(spec).matrices; }

}  // namespace pythia_rt
