#include "layer.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "forward/activations.h"
#include "model/kv_cache.h"

namespace pythia_rt {

namespace {

Spec one_layer(Spec spec) {
  validate(spec);
  spec.n_layers = 1;
  return spec;
}

Weights only(const LayerWeights& layer) {
  Weights weights;
  weights.layers.push_back(layer);
  return weights;
}

}  // namespace

Layer::Layer(const Spec& spec, const std::map<std::string, Format>& formats,
             const std::map<std::string, Blob>& tensors, std::unique_ptr<Backend> backend)
    : spec_(one_layer(spec)),
      backend_(std::move(backend)),
      weights_(only(bind_layer(spec_, formats, tensors))),
      parts_{{backend_.get(), 0, 1}},
      decoder_(spec_, weights_, parts_) {}

void Layer::run(float* hidden, int64_t count, const Inputs& inputs, FunctionRef<void()> interrupt) {
  if (count < 1 || count > spec_.max_positions) {
    throw_invalid("a sequence has between 1 and ", spec_.max_positions, " positions, not ", count);
  }
  const LayerWeights& layer = weights_.layers.front();
  const std::pair<const Matrix*, float*> wanted[] = {{&layer.qkv, inputs.qkv},
                                                     {&layer.attn_out, inputs.attn_out},
                                                     {&layer.mlp_up, inputs.mlp_up},
                                                     {&layer.mlp_down, inputs.mlp_down}};
  // f32: what is measured is the weights, not the cache.
  KvCache cache(spec_, parts_, KvFormat::f32, count);
  for (int64_t begin = 0; begin < count; begin += kMaxRows) {
    decoder_.run_layer_alone(0, cache, hidden + begin * spec_.hidden_size,
                             std::min(kMaxRows, count - begin),
                             [&](const Matrix& matrix, Rows input) {
                               for (const auto& [of, out] : wanted) {
                                 if (of == &matrix && out != nullptr) {
                                   backend_->read(input, out + begin * input.width);
                                 }
                               }
                             });
    interrupt();
  }
}

}  // namespace pythia_rt
