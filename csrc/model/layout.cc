#include "model/layout.h"

namespace pythia_rt {

namespace {

struct Collector {
  std::vector<NamedNorm> norms;
  std::vector<NamedMatrix> matrices;
  std::vector<NamedTable> tables;
  std::string prefix;
  int64_t layer = -1;
  bool shared = true;

  void norm(const char* name, const NormWeights&, const NormShape& shape) {
    norms.push_back({prefix + name, name, layer, shape});
  }
  void matrix(const char* name, const Matrix&, const MatrixShape& shape) {
    const std::string reads = shape.reads;
    matrices.push_back({prefix + name, name, layer, shape, reads.empty() ? "" : prefix + reads});
  }
  void table(const char* name, const float*, int64_t rows, int64_t columns) {
    tables.push_back({name, rows, columns, shared});
  }
};

Collector collect(const Spec& spec) {
  Collector collector;
  const Weights weights;
  const LayerWeights layer;
  visit_shared(spec, weights, collector);
  collector.shared = false;
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

std::vector<NamedTable> named_tables(const Spec& spec) { return collect(spec).tables; }

}  // namespace pythia_rt
