// The forward pass.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "base/function_ref.h"
#include "model/activations.h"
#include "model/kv_cache.h"
#include "model/placement.h"
#include "model/rope_table.h"
#include "model/spec.h"
#include "model/weights.h"

namespace pythia_rt {

// Tokens to append to one sequence, and where its logits go.
struct Chunk {
  KvCache* cache;
  const int32_t* tokens;
  int64_t count;
  float* logits;                 // null for none, else [count or 1][vocab_size] on the host
  bool all_logits;               // of every token, not of the last alone
  SoftmaxTerm* terms = nullptr;  // [n_terms] on the host: of tokens[1 ..], each after those before
  int64_t n_terms = 0;           // count or less; tokens[n_terms] must be there
};

// Is told what a matrix is about to be multiplied with.
using InputObserver = FunctionRef<void(const Matrix& matrix, Rows input)>;

class Decoder {
 public:
  // Every part of the weights must be where its device reads it (place_weights).
  Decoder(const Spec& spec, const Weights& weights, const Parts& parts);

  // One pass over at most kMaxRows tokens of any number of sequences. Appends to their caches.
  // `between_layers` is called by passes long enough for somebody to lose patience; if it throws,
  // nothing has been appended.
  void run(const std::vector<Chunk>& chunks, FunctionRef<void()> between_layers);

  // Layer `index` alone: hidden [count][hidden_size] on the host, the residual stream of the next
  // `count` <= kMaxRows positions of one sequence, becomes what the layer makes of it.
  void run_layer_alone(int64_t index, KvCache& cache, float* hidden, int64_t count,
                       InputObserver observe);

 private:
  // A part of the layers, with what its device needs for a pass.
  struct Stage {
    Stage(const Spec& spec, const Part& part)
        : part(part), activations(*part.backend, spec), rope(*part.backend, spec) {}

    Part part;
    Activations activations;
    RopeTable rope;
    Batch batch;
  };

  void plan_logits(const std::vector<Chunk>& chunks);
  void begin(size_t stage_index, const std::vector<Chunk>& chunks, int64_t repeats);
  void run_stage(Stage& stage, FunctionRef<void()> between_layers);
  void run_layer(Stage& stage, int64_t index, int64_t count, InputObserver observe);
  void run_head(Stage& stage, Rows hidden);
  void compute_logits();
  void compute_terms(const std::vector<Chunk>& chunks);
  NormParameters norm(const NormWeights& weights) const;

  const Spec& spec_;
  const Weights& weights_;
  std::vector<std::unique_ptr<Stage>> stages_;
  HeadLayout heads_;
  Epilogue activation_;

  // Lists of the pass at hand; kept, so that a token allocates nothing.
  std::vector<float> hidden_;         // [rows][hidden_size], on its way to the next device
  std::vector<int64_t> wanted_rows_;  // of x, whose logits somebody wants
  std::vector<float*> wanted_outs_;   // where they go
  std::vector<int32_t> targets_;      // tokens whose terms somebody wants
  std::vector<SoftmaxTerm> terms_;    // of the targets
};

}  // namespace pythia_rt
