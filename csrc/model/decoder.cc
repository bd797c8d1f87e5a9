#include "model/decoder.h"

#include <algorithm>

namespace pythia_rt {

Decoder::Decoder(const Spec& spec, const Weights& weights, const Parts& parts)
    : spec_(spec),
      weights_(weights),
      heads_{spec.n_heads, spec.n_kv_heads, spec.head_dim, spec.rotary_dim},
      activation_(spec.activation == Activation::gelu ? Epilogue::gelu : Epilogue::gelu_tanh) {
  for (const Part& part : parts) stages_.push_back(std::make_unique<Stage>(spec, part));
}

namespace {

// Passes of fewer rows are over within a token's time.
constexpr int64_t kPatientRows = 16;

// The number of batches like this one (Batch::repeats): one token of each sequence, and the logits
// of all or of none.
int64_t repeats_of(const std::vector<Chunk>& chunks) {
  const auto n = static_cast<int64_t>(chunks.size());
  const bool wanted = chunks.front().logits != nullptr;
  for (const Chunk& chunk : chunks) {
    if (chunk.count != 1 || chunk.n_terms > 0 || (chunk.logits != nullptr) != wanted) return -1;
  }
  return n <= kMaxLogitRows ? 2 * n + (wanted ? 1 : 0) : -1;
}

}  // namespace

void Decoder::run(const std::vector<Chunk>& chunks, FunctionRef<void()> between_layers) {
  const int64_t repeats = repeats_of(chunks);
  plan_logits(chunks);
  for (size_t i = 0; i < stages_.size(); ++i) {
    Stage& stage = *stages_[i];
    begin(i, chunks, repeats);
    const Rows x = stage.activations.x.first(stage.batch.rows());
    if (i > 0) {
      hidden_.resize(static_cast<size_t>(x.count * x.width));
      stages_[i - 1]->part.backend->read(stages_[i - 1]->activations.x.first(x.count),
                                         hidden_.data());
      stage.part.backend->write(hidden_.data(), x);
    }
    stage.part.backend->pass(stage.batch, [&] { run_stage(stage, between_layers); });
  }
  for (const Chunk& chunk : chunks) {
    chunk.cache->set_length(chunk.cache->length() + chunk.count);
  }
  compute_logits();
  compute_terms(chunks);
}

// Which rows' logits are wanted, and where.
void Decoder::plan_logits(const std::vector<Chunk>& chunks) {
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
}

void Decoder::begin(size_t stage_index, const std::vector<Chunk>& chunks, int64_t repeats) {
  Stage& stage = *stages_[stage_index];
  Batch& batch = stage.batch;
  batch.tokens.clear();
  batch.sequences.clear();
  batch.repeats = repeats;
  int64_t first_row = 0;
  for (const Chunk& chunk : chunks) {
    const int64_t position = chunk.cache->length();
    stage.rope.reach(position + chunk.count);
    if (chunk.tokens != nullptr) {
      batch.tokens.insert(batch.tokens.end(), chunk.tokens, chunk.tokens + chunk.count);
    }
    batch.sequences.push_back({first_row, chunk.count, position, chunk.cache->format(),
                               chunk.cache->memory(stage_index)});
    first_row += chunk.count;
  }
  batch.cosines = stage.rope.cosines();
  batch.sines = stage.rope.sines();
}

void Decoder::run_stage(Stage& stage, FunctionRef<void()> between_layers) {
  const int64_t count = stage.batch.rows();
  const Part& part = stage.part;
  const Rows x = stage.activations.x.first(count);
  if (part.first_layer == 0) part.backend->embed(weights_.embed, x);
  for (int64_t i = part.first_layer; i < part.first_layer + part.n_layers; ++i) {
    run_layer(stage, i, count, [](const Matrix&, Rows) {});
    if (count > kPatientRows) between_layers();
  }
  // A pass that comes again includes its logits, which are those of all rows or of none.
  const bool is_last = part.first_layer + part.n_layers == spec_.n_layers;
  if (is_last && stage.batch.repeats >= 0 && !wanted_rows_.empty()) run_head(stage, x);
}

void Decoder::run_layer(Stage& stage, int64_t index, int64_t count, InputObserver observe) {
  const LayerWeights& layer = weights_.layers[static_cast<size_t>(index)];
  const int64_t of_part = index - stage.part.first_layer;
  Backend& backend = *stage.part.backend;
  const Activations& rows = stage.activations;
  const Rows x = rows.x.first(count);
  const Rows attn_in = rows.attn_in.first(count);
  const Rows mlp_in = rows.mlp_in.first(count);
  const Rows qkv = rows.qkv.first(count);
  const Rows attended = rows.attended.first(count);
  const Rows mlp = rows.mlp.first(count);
  const Product project{&layer.qkv, attn_in, qkv, Epilogue::store};
  const Product attn_out{&layer.attn_out, attended, x, Epilogue::add};
  const Product mlp_up{&layer.mlp_up, mlp_in, mlp, activation_};
  const Product mlp_down{&layer.mlp_down, mlp, x, Epilogue::add};
  const auto linear = [&](const Product& product) {
    observe(*product.matrix, product.in);
    backend.linear(product);
  };
  const auto linear_pair = [&](const Product& first, const Product& second) {
    observe(*first.matrix, first.in);
    observe(*second.matrix, second.in);
    backend.linear_pair(first, second);
  };
  const auto attend = [&] {
    backend.rotate_and_append(heads_, of_part, qkv);
    backend.attention(heads_, of_part, qkv, attended);
  };

  if (spec_.residual == Residual::parallel) {
    // x + attention(norm1(x)) + mlp(norm2(x)): neither waits for the other.
    backend.layer_norm_pair(x, {norm(layer.attn_norm), attn_in}, {norm(layer.mlp_norm), mlp_in});
    linear_pair(project, mlp_up);
    attend();
    linear_pair(attn_out, mlp_down);
  } else {
    // h = x + attention(norm1(x)), then h + mlp(norm2(h)).
    backend.layer_norm(norm(layer.attn_norm), x, attn_in);
    linear(project);
    attend();
    linear(attn_out);
    backend.layer_norm(norm(layer.mlp_norm), x, mlp_in);
    linear(mlp_up);
    linear(mlp_down);
  }
}

void Decoder::run_layer_alone(int64_t index, KvCache& cache, float* hidden, int64_t count,
                              InputObserver observe) {
  Stage& stage = *stages_.front();
  Backend& backend = *stage.part.backend;
  begin(0, {{&cache, nullptr, count, nullptr, false}}, -1);
  const Rows x = stage.activations.x.first(count);
  backend.write(hidden, x);
  backend.pass(stage.batch, [&] { run_layer(stage, index, count, observe); });
  backend.read(x, hidden);
  cache.set_length(cache.length() + count);
}

// The logits of as many rows as `hidden` has.
void Decoder::run_head(Stage& stage, Rows hidden) {
  const Rows normed = stage.activations.wanted.first(hidden.count);
  const Rows logits = stage.activations.logits.first(hidden.count);
  stage.part.backend->layer_norm(norm(weights_.final_norm), hidden, normed);
  stage.part.backend->linear({&weights_.head, normed, logits, Epilogue::store});
}

// The head is the widest matrix of a small model: it runs for the rows that are asked for, a few
// at a time, and its result goes straight to the caller's memory.
void Decoder::compute_logits() {
  Stage& stage = *stages_.back();
  Backend& backend = *stage.part.backend;
  const auto n_wanted = static_cast<int64_t>(wanted_rows_.size());
  for (int64_t begin = 0; begin < n_wanted; begin += kMaxLogitRows) {
    const int64_t count = std::min(kMaxLogitRows, n_wanted - begin);
    if (stage.batch.repeats < 0) {
      const Rows hidden = stage.activations.wanted.first(count);
      backend.gather(stage.activations.x, wanted_rows_.data() + begin, hidden);
      run_head(stage, hidden);
    }
    backend.read_rows(stage.activations.logits.first(count), wanted_outs_.data() + begin);
  }
}

// Every row is scored in one go, in a buffer that the layers are done with.
void Decoder::compute_terms(const std::vector<Chunk>& chunks) {
  Stage& stage = *stages_.back();
  Backend& backend = *stage.part.backend;
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
  const Rows hidden = stage.activations.attn_in.first(static_cast<int64_t>(targets_.size()));
  backend.gather(stage.activations.x, wanted_rows_.data(), hidden);
  backend.layer_norm(norm(weights_.final_norm), hidden, hidden);
  backend.score(weights_.head, hidden, targets_.data(), terms_.data());
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
