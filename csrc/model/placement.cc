#include "model/placement.h"

#include <string>

#include "base/error.h"
#include "formats/formats.h"
#include "model/layout.h"

namespace pythia_rt {

namespace {

size_t vector_bytes(int64_t size) {
  return static_cast<size_t>(round_up(size, kRowBlock)) * sizeof(float);
}

// Calls function(pointer, bytes) for each piece of memory that visited weights point to.
template <typename Function>
struct Pieces {
  const Function& function;

  void norm(const char*, NormWeights& norm, const NormShape& shape) const {
    function(norm.weight, vector_bytes(shape.size));
    if (norm.bias != nullptr) function(norm.bias, vector_bytes(shape.size));
  }
  void matrix(const char*, Matrix& matrix, const MatrixShape&) const {
    const auto layout = packed_layout(matrix.format, matrix.rows, matrix.columns);
    std::vector<const void*> parts = parts_of(matrix);
    for (size_t i = 0; i < layout.size(); ++i) function(parts[i], layout[i].bytes);
    bind_parts(layout, parts, matrix);
    if (matrix.bias != nullptr) function(matrix.bias, vector_bytes(matrix.rows));
  }
  void table(const char*, const float*& table, int64_t rows, int64_t columns) const {
    function(table, static_cast<size_t>(rows * columns) * sizeof(float));
  }
};

// The pieces of a stage: its layers, and what comes before or after them if it has that.
template <typename Function>
void each_piece(const Spec& spec, const Stage& stage, Weights& weights, const Function& function) {
  const Pieces<Function> pieces{function};
  if (stage.first_layer == 0) visit_first(spec, weights, pieces);
  for (int64_t i = stage.first_layer; i < stage.first_layer + stage.n_layers; ++i) {
    visit_layer(spec, weights.layers[static_cast<size_t>(i)], pieces);
  }
  if (stage.first_layer + stage.n_layers == spec.n_layers) {
    visit_last(spec, weights, pieces);
    if (spec.tied_head) pieces.matrix("head", weights.head, {});  // the last stage reads it too
  }
}

// What a stage's weights take. A tied head counts twice, on the safe side.
size_t stage_bytes(const Spec& spec, const Stage& stage, Weights& weights) {
  size_t bytes = 0;
  each_piece(spec, stage, weights, [&](const auto*, size_t size) { bytes += size; });
  return bytes;
}

void check_room(const Spec& spec, const Stage& stage, Weights& weights, size_t workspace_bytes) {
  constexpr size_t kMegabyte = 1000 * 1000;
  const size_t room = stage.backend->free_bytes();
  const auto bytes_of = [&](const Stage& stage) {
    return stage_bytes(spec, stage, weights) + workspace_bytes;
  };
  const size_t wanted = bytes_of(stage);
  if (wanted <= room) return;
  int64_t fitting = stage.n_layers - 1;
  while (fitting > 0 && bytes_of({stage.backend, 0, fitting}) > room) --fitting;
  const std::string advice =
      fitting > 0 ? text("gpu_layers=", fitting, " would fit, or a smaller format of the weights")
                  : text("not even one layer would fit: take a smaller format, or device='cpu'");
  throw NoRoom(text("the model needs ", wanted / kMegabyte, " MB on the ", stage.backend->device(),
                    " device for ", stage.n_layers, " of its layers, and ", room / kMegabyte,
                    " MB are free there: ", advice));
}

}  // namespace

Stages divide_layers(const Spec& spec, Backend* device, Backend& cpu,
                     std::optional<int64_t> device_layers) {
  if (device == nullptr) return {{&cpu, 0, spec.n_layers}};
  const int64_t n = device_layers.value_or(spec.n_layers);
  if (n < 1 || n > spec.n_layers) {
    throw_invalid("gpu_layers must be between 1 and the model's ", spec.n_layers, " layers, not ",
                  n);
  }
  Stages stages = {{device, 0, n}};
  if (n < spec.n_layers) stages.push_back({&cpu, n, spec.n_layers - n});
  return stages;
}

void place_weights(const Spec& spec, const Stages& stages, Weights& weights,
                   size_t workspace_bytes) {
  for (const Stage& stage : stages) {
    stage.backend->check_heads({spec.n_heads, spec.n_kv_heads, spec.head_dim, spec.rotary_dim});
    check_room(spec, stage, weights, workspace_bytes);
  }
  for (const Stage& stage : stages) {
    each_piece(spec, stage, weights, [&](auto*& data, size_t size) {
      using Pointer = std::remove_reference_t<decltype(data)>;
      data = static_cast<Pointer>(stage.backend->hold(data, size));
    });
  }
}

}  // namespace pythia_rt
