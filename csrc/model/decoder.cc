#include "model/decoder.h"

#include <algorithm>
#include <utility>

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
  std::vector<int32_t> tokens;
  for (const Chunk& chunk : chunks) {
    rope_.reach(chunk.cache->length() + chunk.count);
    tokens.insert(tokens.end(), chunk.tokens, chunk.tokens + chunk.count);
  }
  const auto count = static_cast<int64_t>(tokens.size());
  const Rows x = activations_.x.first(count);
  backend_.embed(weights_.embed, tokens.data(), x);
  for (int64_t i = 0; i < spec_.n_layers; ++i) {
    run_layer(weights_.layers[static_cast<size_t>(i)], sequence_rows(chunks, i), x,
              [](const Matrix&, Rows) {});
    if (count > kPatientRows) between_layers();
  }
  for (const Chunk& chunk : chunks) {
    chunk.cache->set_length(chunk.cache->length() + chunk.count);
  }
  compute_logits(chunks, x);
}

void Decoder::run_layer(const LayerWeights& layer, const std::vector<SequenceRows>& sequences,
                        Rows x, InputObserver observe) {
  const Rows normed = activations_.normed.first(x.count);
  const Rows qkv = activations_.qkv.first(x.count);
  const Rows attended = activations_.attended.first(x.count);
  const Rows mlp = activations_.mlp.first(x.count);
  const auto linear = [&](const Matrix& matrix, Rows in, Rows out, Epilogue epilogue) {
    observe(matrix, in);
    backend_.linear(matrix, in, out, epilogue);
  };

  backend_.layer_norm(norm(layer.attn_norm), x, normed);
  linear(layer.qkv, normed, qkv, Epilogue::store);
  backend_.rotate_and_append(heads_, qkv, sequences);
  backend_.attention(heads_, qkv, sequences, attended);
  // Parallel: x + attention(norm1(x)) + mlp(norm2(x)). Sequential: h = x + attention(norm1(x)),
  // then h + mlp(norm2(h)). The only difference is whose norm the MLP sees: x before or after.
  const bool parallel = spec_.residual == Residual::parallel;
  if (parallel) backend_.layer_norm(norm(layer.mlp_norm), x, normed);
  linear(layer.attn_out, attended, x, Epilogue::add);
  if (!parallel) backend_.layer_norm(norm(layer.mlp_norm), x, normed);
  linear(layer.mlp_up, normed, mlp, activation_);
  linear(layer.mlp_down, mlp, x, Epilogue::add);
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

std::vector<SequenceRows> Decoder::sequence_rows(const std::vector<Chunk>& chunks,
                                                 int64_t layer) const {
  std::vector<SequenceRows> sequences;
  int64_t first_row = 0;
  for (const Chunk& chunk : chunks) {
    const int64_t position = chunk.cache->length();
    SequenceRows rows{first_row,
                      chunk.count,
                      position,
                      rope_.cosines(position),
                      rope_.sines(position),
                      chunk.cache->format(),
                      {}};
    for (int64_t head = 0; head < spec_.n_kv_heads; ++head) {
      rows.kv_heads.push_back(chunk.cache->head(layer, head));
    }
    sequences.push_back(std::move(rows));
    first_row += chunk.count;
  }
  return sequences;
}

// The head is the widest matrix of a small model: it runs for the rows that are asked for, a few
// at a time, and its result goes straight to the caller's memory.
void Decoder::compute_logits(const std::vector<Chunk>& chunks, Rows x) {
  struct Wanted {
    int64_t row;
    float* out;
  };
  std::vector<Wanted> wanted;
  int64_t first_row = 0;
  for (const Chunk& chunk : chunks) {
    if (chunk.logits != nullptr) {
      const int64_t first = chunk.all_logits ? 0 : chunk.count - 1;
      for (int64_t i = first; i < chunk.count; ++i) {
        wanted.push_back({first_row + i, chunk.logits + (i - first) * spec_.vocab_size});
      }
    }
    first_row += chunk.count;
  }
  for (size_t begin = 0; begin < wanted.size(); begin += kMaxLogitRows) {
    const size_t end = std::min(wanted.size(), begin + kMaxLogitRows);
    std::vector<int64_t> rows;
    for (size_t i = begin; i < end; ++i) rows.push_back(wanted[i].row);
    const auto count = static_cast<int64_t>(rows.size());
    const Rows hidden = activations_.wanted.first(count);
    const Rows logits = activations_.logits.first(count);
    backend_.gather(x, rows, hidden);
    backend_.layer_norm(norm(weights_.final_norm), hidden, hidden);
    backend_.linear(weights_.head, hidden, logits, Epilogue::store);
    for (size_t i = begin; i < end; ++i) {
      const int64_t index = static_cast<int64_t>(i - begin);
      backend_.read({logits.row(index), 1, logits.width, logits.stride}, wanted[i].out);
    }
  }
}

NormParameters Decoder::norm(const NormWeights& weights) const {
  return {weights.weight, weights.bias, spec_.norm_epsilon};
}

}  // namespace pythia_rt
