// The neutral description of a model: a point in a space of orthogonal choices. The runtime knows
// blocks, never model names; GPT-NeoX is one point.
#pragma once

#include <cstdint>
#include <vector>

namespace pythia_rt {

enum class Residual { parallel, sequential };
enum class Activation { gelu, gelu_tanh };

struct Spec {
  int64_t n_layers = 0;
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t hidden_size = 0;
  int64_t mlp_size = 0;
  int64_t vocab_size = 0;  // rows of the embedding
  int64_t n_tokens = 0;    // ids the tokenizer knows; rows beyond are padding, never sampled
  int64_t max_positions = 0;
  float norm_epsilon = 0;
  Residual residual = Residual::parallel;
  Activation activation = Activation::gelu;
  int64_t rotary_dim = 0;
  double rope_base = 0;
  bool tied_head = false;
  bool attention_bias = true;
  bool mlp_bias = true;

  int64_t query_size() const { return n_heads * head_dim; }
  int64_t key_value_size() const { return n_kv_heads * head_dim; }
  int64_t qkv_size() const { return query_size() + 2 * key_value_size(); }
};

// Throws std::invalid_argument with a sentence for values that no model can have.
void validate(const Spec& spec);

}  // namespace pythia_rt
