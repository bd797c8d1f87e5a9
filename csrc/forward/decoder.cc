#include "forward/decoder.h"

#include "forward/layer.h"
#include "forward/norm.h"

namespace pythia_rt {

Decoder::Decoder(const Spec& spec, const Weights& weights, const Parts& parts)
    : spec_(spec), weights_(weights), logits_(spec, weights) {
  for (const Part& part : parts) stages_.push_back(std::make_unique<Stage>(spec, weights, part));
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

void Decoder::run(const std::vector<Chunk>& chunks, FunctionRef<void()> between_layers,
                  Probe* probe) {
  const int64_t repeats = probe == nullptr ? repeats_of(chunks) : -1;
  logits_.plan(chunks);
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
    stage.part.backend->pass(stage.batch, [&] { run_stage(stage, between_layers, probe); });
  }
  for (const Chunk& chunk : chunks) {
    chunk.cache->set_length(chunk.cache->length() + chunk.count);
  }
  logits_.compute(*stages_.back());
  logits_.compute_terms(*stages_.back(), chunks);
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
    batch.sequences.push_back(
        {first_row, chunk.count, position, chunk.cache->format(), chunk.cache->pages(stage_index)});
    first_row += chunk.count;
  }
  batch.cosines = stage.rope.cosines();
  batch.sines = stage.rope.sines();
}

void Decoder::embed(const Stage& stage, Probe* probe) {
  Backend& backend = *stage.part.backend;
  const int64_t count = stage.batch.rows();
  const Rows x = stage.activations.x.first(count);
  const float* positions = weights_.embed_positions;
  const auto wants = [&](Point point) { return probe != nullptr && probe->wants({point}); };
  const auto watch = [&](Point point, Rows rows) {
    if (wants(point)) probe->at({point}, backend, rows);
  };
  if (positions != nullptr && (wants(Point::embed) || wants(Point::pos_embed))) {
    const Rows added = stage.activations.attn_in.first(count);  // nobody has used it yet
    backend.embed(&weights_.embed, nullptr, x);
    backend.embed(nullptr, positions, added);
    watch(Point::embed, x);
    watch(Point::pos_embed, added);
    backend.finish(Epilogue::add, added, x);
  } else {
    backend.embed(&weights_.embed, positions, x);
    watch(Point::embed, x);
  }
  if (spec_.embed_norm) {
    backend.norm(norm_parameters(spec_, weights_.embed_norm), x, x);
    watch(Point::embed_norm, x);
  }
}

void Decoder::run_stage(const Stage& stage, FunctionRef<void()> between_layers, Probe* probe) {
  const int64_t count = stage.batch.rows();
  const Part& part = stage.part;
  if (part.first_layer == 0 && !stage.batch.tokens.empty()) {
    embed(stage, probe);
  }
  for (int64_t i = 0; i < part.n_layers; ++i) {
    const LayerWeights& weights = weights_.layers[static_cast<size_t>(part.first_layer + i)];
    run_layer(spec_, weights, stage, i, probe);
    if (count > kPatientRows) between_layers();
  }
  const bool is_last = part.first_layer + part.n_layers == spec_.n_layers;
  if (is_last && stage.batch.repeats >= 0) logits_.record(stage);
  if (is_last && probe != nullptr) logits_.watch(stage, *probe);
}

}  // namespace pythia_rt
