// THE list of a model's tensors: which norms, matrices and tables a spec implies, of which sizes.
//
// Whatever walks a model's weights walks this list: binding, placing, capturing inputs, and by
// _core.norms, _core.linears and _core.tables the flat file, its converter, recipes, calibration,
// balancing and reports. What depends on a choice of the spec is a condition here and nowhere else.
//
// A visitor offers norm(name, weights, shape), matrix(name, weights, shape) and table(name,
// weights, rows, columns); `weights` is a member of the structs in model/weights.h, const where
// they are.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "model/spec.h"
#include "model/weights.h"

namespace pythia_rt {

struct NormShape {
  int64_t size;
  bool has_bias;
};

struct MatrixShape {
  const char* component;  // of the model, for which a recipe may choose a format
  int64_t rows;
  int64_t columns;
  bool has_bias;
  // Whose result it multiplies, a norm's or, through attention or the activation, a matrix's.
  // Empty: a token chooses its row, or it multiplies the residual stream itself.
  const char* reads;
};

inline NormShape norm_shape(const Spec& spec, int64_t size) {
  switch (spec.norm) {
    case NormKind::layer:
      return {size, true};
    case NormKind::rms:
      return {size, false};
  }
  throw std::invalid_argument("there is no such norm");
}

// What every layer reads, whatever device it runs on. It stays in the host's memory: a
// stage's workspace makes of it what the device needs.
template <typename AnyWeights, typename Visitor>
void visit_shared(const Spec& spec, AnyWeights& weights, Visitor&& visitor) {
  if (spec.rotary_dim > 0) {
    visitor.table("rope_frequencies", weights.rope_frequencies, int64_t{1}, spec.rotary_dim / 2);
  }
  if (spec.score_bias) {
    visitor.table("score_bias", weights.score_bias, spec.n_heads, spec.max_positions);
  }
}

// What comes before the layers.
template <typename AnyWeights, typename Visitor>
void visit_first(const Spec& spec, AnyWeights& weights, Visitor&& visitor) {
  visitor.matrix("embed", weights.embed,
                 MatrixShape{"embed", spec.vocab_size, spec.hidden_size, false, ""});
  if (spec.learned_positions) {
    visitor.table("embed_positions", weights.embed_positions, spec.max_positions, spec.hidden_size);
  }
  if (spec.embed_norm) {
    visitor.norm("embed_norm", weights.embed_norm, norm_shape(spec, spec.hidden_size));
  }
}

// What a kind of block reads and has.
struct BlockShape {
  const char* attn_reads;  // the norm that queries, keys and values read, or "" for the stream
  const char* mlp_reads;
  bool two_norms;  // wherever they stand
  bool in_turn;    // whether one of attention and MLP sees what the other has added

  bool reads_attn_norm() const { return *attn_reads != '\0'; }
  bool reads_mlp_norm() const { return two_norms && *mlp_reads != '\0'; }
};
inline BlockShape shape_of(Block block) {
  switch (block) {
    case Block::sequential:
      return {"attn_norm", "mlp_norm", true, true};
    case Block::parallel:
      return {"attn_norm", "mlp_norm", true, false};
    case Block::parallel_shared:
      return {"attn_norm", "attn_norm", false, false};
    case Block::post:
    case Block::output:
      return {"", "", true, true};
  }
  throw std::invalid_argument("there is no such block");
}

template <typename AnyWeights, typename Visitor>
void visit_layer(const Spec& spec, AnyWeights& layer, Visitor&& visitor) {
  const int64_t hidden = spec.hidden_size;
  const BlockShape block = shape_of(spec.block);
  visitor.norm("attn_norm", layer.attn_norm, norm_shape(spec, hidden));
  if (block.two_norms) {
    visitor.norm("mlp_norm", layer.mlp_norm, norm_shape(spec, hidden));
  }
  if (spec.qk_norm != QkNorm::none) {
    visitor.norm("q_norm", layer.q_norm, norm_shape(spec, spec.query_size()));
    visitor.norm("k_norm", layer.k_norm, norm_shape(spec, spec.key_value_size()));
  }
  visitor.matrix(
      "qkv", layer.qkv,
      MatrixShape{"attention", spec.qkv_size(), hidden, spec.qkv_bias, block.attn_reads});
  visitor.matrix("attn_out", layer.attn_out,
                 MatrixShape{"attention", hidden, spec.query_size(), spec.attn_out_bias, "qkv"});
  visitor.matrix("mlp_up", layer.mlp_up,
                 MatrixShape{"mlp", spec.mlp_up_size(), hidden, spec.mlp_bias, block.mlp_reads});
  visitor.matrix("mlp_down", layer.mlp_down,
                 MatrixShape{"mlp", hidden, spec.mlp_size, spec.mlp_bias, "mlp_up"});
}

// What comes after them.
template <typename AnyWeights, typename Visitor>
void visit_last(const Spec& spec, AnyWeights& weights, Visitor&& visitor) {
  if (spec.final_norm) {
    visitor.norm("final_norm", weights.final_norm, norm_shape(spec, spec.hidden_size));
  }
  if (!spec.tied_head) {
    visitor.matrix("head", weights.head,
                   MatrixShape{"head", spec.vocab_size, spec.hidden_size, spec.head_bias,
                               spec.final_norm ? "final_norm" : ""});
  }
}

// Of the tensors of a layer, in the flat file: "layers.3.qkv".
inline std::string layer_prefix(int64_t layer) { return "layers." + std::to_string(layer) + "."; }

// The same list by the names of the flat file. The layer is -1 outside of the layers.
struct NamedNorm {
  std::string name;
  std::string role;  // the name in its layer
  int64_t layer;
  NormShape shape;
};
struct NamedMatrix {
  std::string name;
  std::string role;
  int64_t layer;
  MatrixShape shape;
  std::string reads;  // a name of the flat file, or empty
};
struct NamedTable {
  std::string name;
  int64_t rows;
  int64_t columns;
  bool shared;  // every layer reads it; such tables follow from the config alone
};
std::vector<NamedNorm> named_norms(const Spec& spec);
std::vector<NamedMatrix> named_matrices(const Spec& spec);
std::vector<NamedTable> named_tables(const Spec& spec);

}  // namespace pythia_rt
