#include "model/decoder.h"

#include <algorithm>

namespace pythia_rt {

Decoder::Decoder(const Spec& spec, const Weights& weights, Backend& backend)
    : spec_(spec),
      weights_(weights),
      backend_(backend),
      rope_(spec),
      activations_(backend, spec),
      heads_{spec.n_heads, spec.n_kv_heads, spec.head_dim, spec.rotary_dim},
      activation_(spec.activation == Activation::gelu ? Epilogue::gelu : Epilogue::gelu_tanh) {}

namespace {

// Passes of fewer rows are over within a token's time.
constexpr int64_t kPatientRows = 16;

}  // namespace

void Decoder::run(const std::vector<Chunk>& chunks, FunctionRef<void()> between_layers) {
  tokens_.clear();
  for (const Chunk& chunk : chunks) {
    rope_.reach(chunk.cache->length() + chunk.count);
    tokens_.insert(tokens_.end(), chunk.tokens, chunk.tokens + chunk.count);
  }
  const auto count = static_cast<int64_t>(tokens_.size());
  const Rows x = activations_.x.first(count);
  backend_.embed(weights_.embed, tokens_.data(), x);
  for (int64_t i = 0; i < spec_.n_layers; ++i) {
    run_layer(weights_.layers[static_cast<size_t>(i)], sequence_rows(chunks, i), x,
              [](const Matrix&, Rows) {});
    if (count > kPatientRows) between_layers();
  }
  for (const Chunk& chunk : chunks) {
    chunk.cache->set_length(chunk.cache->length() + chunk.count);
  }
  compute_logits(chunks, x);
  compute_terms(chunks, x);
}

void Decoder::run_layer(const LayerWeights& layer, const std::vector<SequenceRows>& sequences,
                        Rows x, InputObserver observe) {
  const Rows attn_in = activations_.attn_in.first(x.count);
  const Rows mlp_in = activations_.mlp_in.first(x.count);
  const Rows qkv = activations_.qkv.first(x.count);
  const Rows attended = activations_.attended.first(x.count);
  const Rows mlp = activations_.mlp.first(x.count);
  const Product project{&layer.qkv, attn_in, qkv, Epilogue::store};
  const Product attn_out{&layer.attn_out, attended, x, Epilogue::add};
  const Product mlp_up{&layer.mlp_up, mlp_in, mlp, activation_};
  const Product mlp_down{&layer.mlp_down, mlp, x, Epilogue::add};
  const auto linear = [&](const Product& product) {
    observe(*product.matrix, product.in);
    backend_.linear(product);
  };
  const auto linear_pair = [&](const Product& first, const Product& second) {
    observe(*first.matrix, first.in);
    observe(*second.matrix, second.in);
    backend_.linear_pair(first, second);
  };

  backend_.layer_norm(norm(layer.attn_norm), x, attn_in);
  if (spec_.residual == Residual::parallel) {
    // x + attention(norm1(x)) + mlp(norm2(x)): neither waits for the other.
    backend_.layer_norm(norm(layer.mlp_norm), x, mlp_in);
    linear_pair(project, mlp_up);
    backend_.rotate_and_append(heads_, qkv, sequences);
    backend_.attention(heads_, qkv, sequences, attended);
    linear_pair(attn_out, mlp_down);
  } else {
    // h = x + attention(norm1(x)), then h + mlp(norm2(h)).
    linear(project);
    backend_.rotate_and_append(heads_, qkv, sequences);
    backend_.attention(heads_, qkv, sequences, attended);
    linear(attn_out);
    backend_.layer_norm(norm(layer.mlp_norm), x, mlp_in);
    linear(mlp_up);
    linear(mlp_down);
  }
}

void Decoder::run_layer_alone(int64_t index, KvCache& cache, float* hidden, int64_t count,
                              InputObserver observe) {
  rope_.reach(cache.length() + count);
  const Rows x = activations_.x.first(count);
  backend_.write(hidden, x);
  run_layer(weights_.layers[static_cast<size_t>(index)],
            sequence_rows({{&cache, nullptr, count, nullptr, false}}, index), x, observe);
  backend_.read(x, hidden);
  cache.set_length(cache.length() + count);
}

const std::vector<SequenceRows>& Decoder::sequence_rows(const std::vector<Chunk>& chunks,
                                                        int64_t layer) {
  sequences_.clear();
  int64_t first_row = 0;
  for (const Chunk& chunk : chunks) {
    const int64_t position = chunk.cache->length();
    sequences_.push_back({first_row, chunk.count, position, rope_.cosines(position),
                          rope_.sines(position), chunk.cache->format(), chunk.cache->layer(layer)});
    first_row += chunk.count;
  }
  return sequences_;
}

// The head is the widest matrix of a small model: it runs for the rows that are asked for, a few
// at a time, and its result goes straight to the caller's memory.
void Decoder::compute_logits(const std::vector<Chunk>& chunks, Rows x) {
  wanted_rows_.clear();
  wanted_outs_.clear();
  int64_t first_row = 0;
  for (const Chunk& chunk : chunks) {
    if (chunk.logits != nullptr) {
      const int64_t first = chunk.all_logits ? 0 : chunk.count - 1;
      for (int64_t i = first; i < chunk.count; ++i) {
        wanted_rows_.push_back(first_row + i);
        wanted_outs_.push_back(chunk.logits + (i - first) * spec_.vocab_size);
      }
    }
    first_row += chunk.count;
  }
  const auto n_wanted = static_cast<int64_t>(wanted_rows_.size());
  for (int64_t begin = 0; begin < n_wanted; begin += kMaxLogitRows) {
    const int64_t count = std::min(kMaxLogitRows, n_wanted - begin);
    const Rows hidden = activations_.wanted.first(count);
    const Rows logits = activations_.logits.first(count);
    backend_.gather(x, wanted_rows_.data() + begin, hidden);
    backend_.layer_norm(norm(weights_.final_norm), hidden, hidden);
    backend_.linear({&weights_.head, hidden, logits, Epilogue::store});
    for (int64_t i = 0; i < count; ++i) {
      float* out = wanted_outs_[static_cast<size_t>(begin + i)];
      backend_.read({logits.row(i), 1, logits.width, logits.stride}, out);
    }
  }
}

// Every row is scored in one go, in a buffer that the layers are done with.
void Decoder::compute_terms(const std::vector<Chunk>& chunks, Rows x) {
  wanted_rows_.clear();
  targets_.clear();
  int64_t first_row = 0;
  for (const Chunk& chunk : chunks) {
    for (int64_t i = 0; i < chunk.n_terms; ++i) {
      wanted_rows_.push_back(first_row + i);
      targets_.push_back(chunk.tokens[i + 1]);
    }
    first_row += chunk.count;
  }
  if (targets_.empty()) return;
  terms_.resize(targets_.size());
  const Rows hidden = activations_.attn_in.first(static_cast<int64_t>(targets_.size()));
  backend_.gather(x, wanted_rows_.data(), hidden);
  backend_.layer_norm(norm(weights_.final_norm), hidden, hidden);
  backend_.score(weights_.head, hidden, targets_.data(), terms_.data());
  const SoftmaxTerm* term = terms_.data();
  for (const Chunk& chunk : chunks) {
    std::copy_n(term, chunk.n_terms, chunk.terms);
    term += chunk.n_terms;
  }
}

NormParameters Decoder::norm(const NormWeights& weights) const {
  return {weights.weight, weights.bias, spec_.norm_epsilon};
}

}  // namespace pythia_rt
