// Every scratch buffer of a pass through the decoder, with its shape.
#pragma once

#include <memory>
#include <vector>

#include "backend/backend.h"
#include "model/spec.h"

namespace pythia_rt {

// Rows that one pass takes at most: enough for matrix products to run at full speed, few enough
// for the buffers to stay small. Longer inputs are cut; no result depends on where.
constexpr int64_t kMaxRows = 256;

// Rows of logits computed at a time: a row is as wide as the vocabulary.
constexpr int64_t kMaxLogitRows = 32;

class Activations {
 public:
  Activations(Backend& backend, const Spec& spec)
      : backend_(backend),
        mlp_up_size_(spec.mlp_up_size()),
        x(make(backend, kMaxRows, spec.hidden_size)),
        attn_in(make(backend, kMaxRows, spec.hidden_size)),
        mlp_in(make(backend, kMaxRows, spec.hidden_size)),
        qkv(make(backend, kMaxRows, spec.qkv_size())),
        attended(make(backend, kMaxRows, spec.query_size())),
        mlp(make(backend, kMaxRows, spec.mlp_size)),
        wanted(make(backend, kMaxLogitRows, spec.hidden_size)),
        logits(make(backend, kMaxLogitRows, spec.vocab_size)) {}

  // Of all buffers for a model with this spec, halves() among them.
  static size_t bytes(const Spec& spec) {
    const int64_t widths = 3 * stride_of(spec.hidden_size) + stride_of(spec.qkv_size()) +
                           stride_of(spec.query_size()) + stride_of(spec.mlp_size) +
                           (spec.has_gate() ? stride_of(spec.mlp_up_size()) : 0);
    const int64_t of_logits = stride_of(spec.hidden_size) + stride_of(spec.vocab_size);
    return static_cast<size_t>(kMaxRows * widths + kMaxLogitRows * of_logits) * sizeof(float);
  }

  // [kMaxRows, 2 * mlp_size]  gate and up of a gated MLP, for who sees them: made when first asked
  // for, and kept, since what a device has queued may still read it.
  Rows halves() const {
    if (halves_.data == nullptr) halves_ = make(backend_, kMaxRows, mlp_up_size_);
    return halves_;
  }

 private:
  // An odd number of cache lines: a block of outputs is written down the rows, and with a stride
  // of whole pages all of it would fall on the same few cache sets.
  static int64_t stride_of(int64_t width) { return round_up(width, kColumnGroup) + 16; }

  Rows make(Backend& backend, int64_t count, int64_t width) const {
    const int64_t stride = stride_of(width);
    buffers_.push_back(backend.allocate(static_cast<size_t>(count * stride) * sizeof(float)));
    return {reinterpret_cast<float*>(buffers_.back()->data()), count, width, stride};
  }

  Backend& backend_;
  int64_t mlp_up_size_;
  // Before what follows: that is made in it.
  mutable std::vector<std::unique_ptr<DeviceBuffer>> buffers_;
  mutable Rows halves_{};

 public:
  const Rows x;         // [kMaxRows, hidden_size]  the residual stream
  const Rows attn_in;   // [kMaxRows, hidden_size]  normed, for queries, keys and values
  const Rows mlp_in;    // [kMaxRows, hidden_size]  normed, for the MLP
  const Rows qkv;       // [kMaxRows, qkv_size]     queries | keys | values
  const Rows attended;  // [kMaxRows, n_heads * head_dim]
  const Rows mlp;       // [kMaxRows, mlp_size]
  const Rows wanted;    // [kMaxLogitRows, hidden_size]  rows whose logits are wanted
  const Rows logits;    // [kMaxLogitRows, vocab_size]
};

}  // namespace pythia_rt
