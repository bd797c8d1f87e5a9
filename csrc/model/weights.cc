#include "model/weights.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/rounding.h"
#include "formats/formats.h"
#include "model/layout.h"

namespace pythia_rt {

namespace {

// The bias of queries, keys and values, less what it adds to those dimensions of the keys that are
// not rotated. There it moves all scores of a query alike, which softmax does not see; but where it
// is far larger than the keys it would cost the cache their digits.
std::shared_ptr<const float[]> without_constant_keys(const Spec& spec, const Matrix& qkv) {
  const auto size = static_cast<size_t>(qkv.row_blocks() * kRowBlock);
  const std::shared_ptr<float[]> bias(new float[size]);
  std::copy_n(qkv.bias, size, bias.get());
  for (int64_t head = 0; head < spec.n_kv_heads; ++head) {
    float* keys = bias.get() + spec.query_size() + head * spec.head_dim;
    std::fill(keys + spec.rotary_dim, keys + spec.head_dim, 0.0f);
  }
  return bias;
}

// Takes tensors out of the table by name, checks them, and remembers which were taken.
class Binder {
 public:
  Binder(const std::map<std::string, Format>& formats, const std::map<std::string, Blob>& tensors)
      : formats_(formats), tensors_(tensors) {}

  const void* take(const std::string& name, size_t bytes) {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) throw_invalid("the tensor '", name, "' is missing");
    const Blob& blob = found->second;
    if (blob.size != bytes) {
      throw_invalid("the tensor '", name, "' has ", blob.size, " bytes where the model needs ",
                    bytes);
    }
    if (reinterpret_cast<size_t>(blob.data) % 4 != 0) {
      throw_invalid("the tensor '", name, "' does not start on a multiple of 4 bytes");
    }
    taken_.insert(name);
    return blob.data;
  }

  const float* vector(const std::string& name, int64_t size) {
    const auto bytes = static_cast<size_t>(round_up(size, kRowBlock)) * sizeof(float);
    return static_cast<const float*>(take(name, bytes));
  }

  // Takes the tensors of a visited part of the model, whose names begin with `prefix`.
  struct Visitor {
    Binder& binder;
    std::string prefix;

    void norm(const char* name, NormWeights& norm, const NormShape& shape) {
      norm.weight = binder.vector(prefix + name + ".weight", shape.size);
      if (shape.has_bias) norm.bias = binder.vector(prefix + name + ".bias", shape.size);
    }
    void matrix(const char* name, Matrix& matrix, const MatrixShape& shape) {
      binder.bind(prefix + name, shape, matrix);
    }
    void table(const char* name, const float*& table, int64_t rows, int64_t columns) {
      const auto bytes = static_cast<size_t>(rows * columns) * sizeof(float);
      table = static_cast<const float*>(binder.take(prefix + name, bytes));
    }
  };

  LayerWeights layer(const std::string& prefix, const Spec& spec) {
    LayerWeights layer;
    visit_layer(spec, layer, Visitor{*this, prefix});
    // Where keys are normed, a constant in them is none in the scores.
    if (layer.qkv.bias != nullptr && spec.qk_norm == QkNorm::none) {
      layer.own_qkv_bias = without_constant_keys(spec, layer.qkv);
      layer.qkv.bias = layer.own_qkv_bias.get();
    }
    return layer;
  }

  // Bytes of all matrices taken since the last call.
  int64_t take_bytes() { return std::exchange(bytes_, 0); }

  void check_nothing_left() const {
    for (const auto& [name, blob] : tensors_) {
      if (taken_.count(name) == 0)
        throw_invalid("the tensor '", name, "' belongs to no part of the model");
    }
    if (formats_.size() != n_matrices_) {
      throw_invalid("there are ", formats_.size(), " formats for ", n_matrices_, " matrices");
    }
  }

 private:
  void bind(const std::string& name, const MatrixShape& shape, Matrix& matrix) {
    const auto format = formats_.find(name);
    if (format == formats_.end()) throw_invalid("the format of '", name, "' is missing");
    matrix.format = format->second;
    matrix.rows = shape.rows;
    matrix.columns = shape.columns;
    matrix.table = format_table(matrix.format);
    const std::vector<PackedPart> layout = packed_layout(matrix.format, shape.rows, shape.columns);
    std::vector<const void*> parts;
    for (const PackedPart& part : layout) {
      parts.push_back(take(name + "." + part.name, part.bytes));
      bytes_ += static_cast<int64_t>(part.bytes);
    }
    bind_parts(layout, parts, matrix);
    if (shape.has_bias) matrix.bias = vector(name + ".bias", shape.rows);
    n_matrices_ += 1;
  }

  const std::map<std::string, Format>& formats_;
  const std::map<std::string, Blob>& tensors_;
  std::set<std::string> taken_;
  int64_t bytes_ = 0;
  size_t n_matrices_ = 0;
};

}  // namespace

Weights bind_weights(const Spec& spec, const std::map<std::string, Format>& formats,
                     const std::map<std::string, Blob>& tensors) {
  Binder binder(formats, tensors);
  Weights weights;
  visit_shared(spec, weights, Binder::Visitor{binder, ""});
  visit_first(spec, weights, Binder::Visitor{binder, ""});
  const int64_t embed_bytes = binder.take_bytes();
  for (int64_t i = 0; i < spec.n_layers; ++i) {
    weights.layers.push_back(binder.layer(layer_prefix(i), spec));
  }
  visit_last(spec, weights, Binder::Visitor{binder, ""});
  if (spec.tied_head) weights.head = weights.embed;
  weights.bytes_per_token = binder.take_bytes() + (spec.tied_head ? embed_bytes : 0);
  binder.check_nothing_left();
  return weights;
}

Weights bind_layer(const Spec& spec, const std::map<std::string, Format>& formats,
                   const std::map<std::string, Blob>& tensors) {
  Binder binder(formats, tensors);
  Weights weights;
  visit_shared(spec, weights, Binder::Visitor{binder, ""});
  weights.layers.push_back(binder.layer("", spec));
  binder.check_nothing_left();
  return weights;
}

}  // namespace pythia_rt
