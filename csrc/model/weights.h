// The weights of a model: matrices and vectors that point into memory somebody else keeps alive.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "formats/matrix.h"
#include "model/spec.h"

namespace pythia_rt {

struct NormWeights {
  const float* weight = nullptr;  // [size padded to 16]
  const float* bias = nullptr;    // [size padded to 16], or null
};

struct LayerWeights {
  NormWeights attn_norm;
  NormWeights mlp_norm;  // of no use where attn_norm serves both
  NormWeights q_norm;    // [n_heads * head_dim], where queries and keys are normed
  NormWeights k_norm;    // [n_kv_heads * head_dim]
  Matrix qkv;            // [q heads | k heads | v heads][hidden_size]
  Matrix attn_out;       // [hidden_size][n_heads * head_dim]
  Matrix mlp_up;         // [mlp_size][hidden_size]; gated: 16 rows of gate, 16 of up ...
  Matrix mlp_down;       // [hidden_size][mlp_size]

  std::shared_ptr<const float[]> own_qkv_bias;  // memory of qkv's, which is not that of the file
};

// What the model leaves out of the keys and values of layers [n_kv_heads * head_dim], in its own
// terms: a part of their scores, and of what is mixed as far as a pattern does not sum to 1. Only
// who sees or edits scores and patterns needs it.
struct LeftOut {
  std::map<int64_t, std::vector<float>> keys;
  std::map<int64_t, std::vector<float>> values;
};

struct Weights {
  const float* rope_frequencies = nullptr;  // [rotary_dim / 2], angles of a step; the host's memory
  const float* score_bias = nullptr;        // [n_heads][max_positions], or null; the host's memory
  Matrix embed;                             // [vocab_size][hidden_size]
  const float* embed_positions = nullptr;   // [max_positions][hidden_size], or null
  NormWeights embed_norm;
  std::vector<LayerWeights> layers;
  NormWeights final_norm;
  Matrix head;  // [vocab_size][hidden_size]; the embedding itself where the two are tied

  LeftOut left_out;  // which is in no tensor; nothing until somebody tells it

  // Bytes of weights that one token reads: everything but the embedding.
  int64_t bytes_per_token = 0;
};

// Bytes of a tensor of the flat file.
struct Blob {
  const void* data = nullptr;
  size_t size = 0;
};

// Finds every tensor that the spec asks for under its name in the flat file and checks its size.
// `formats` says the format of each matrix. Throws std::invalid_argument that names a tensor that
// is missing, surplus, misaligned or of the wrong size.
Weights bind_weights(const Spec& spec, const std::map<std::string, Format>& formats,
                     const std::map<std::string, Blob>& tensors);

// The same for one layer and what every layer reads; its tensors are named without "layers.{i}.".
Weights bind_layer(const Spec& spec, const std::map<std::string, Format>& formats,
                   const std::map<std::string, Blob>& tensors);

}  // namespace pythia_rt
