#include "forward/decoder.h"

#include "forward/layer.h"
#include "forward/norm.h"

namespace pythia_rt {

Decoder::Decoder(const Spec& spec, const Weights& weights, const Stages& stages)
    : spec_(spec), weights_(weights), logits_(spec, weights) {
  for (const Stage& stage : stages)
    workspaces_.push_back(std::make_unique<Workspace>(spec, weights, stage));
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
  for (size_t i = 0; i < workspaces_.size(); ++i) {
    Workspace& workspace = *workspaces_[i];
    begin(i, chunks, repeats);
    const Rows x = workspace.activations.x.first(workspace.batch.rows());
    if (i > 0) {
      hidden_.resize(static_cast<size_t>(x.count * x.width));
      workspaces_[i - 1]->stage.backend->read(workspaces_[i - 1]->activations.x.first(x.count),
                                              hidden_.data());
      workspace.stage.backend->write(hidden_.data(), x);
    }
    workspace.stage.backend->pass(workspace.batch,
                                  [&] { run_stage(workspace, between_layers, probe); });
  }
  for (const Chunk& chunk : chunks) {
    chunk.cache->set_length(chunk.cache->length() + chunk.count);
  }
  logits_.compute(*workspaces_.back());
  logits_.compute_terms(*workspaces_.back(), chunks);
}

void Decoder::begin(size_t stage_index, const std::vector<Chunk>& chunks, int64_t repeats) {
  Workspace& workspace = *workspaces_[stage_index];
  Batch& batch = workspace.batch;
  batch.tokens.clear();
  batch.sequences.clear();
  batch.repeats = repeats;
  int64_t first_row = 0;
  for (const Chunk& chunk : chunks) {
    const int64_t position = chunk.cache->length();
    workspace.rope.reach(position + chunk.count);
    if (chunk.tokens != nullptr) {
      batch.tokens.insert(batch.tokens.end(), chunk.tokens, chunk.tokens + chunk.count);
    }
    batch.sequences.push_back(
        {first_row, chunk.count, position, chunk.cache->format(), chunk.cache->pages(stage_index)});
    first_row += chunk.count;
  }
  batch.cosines = workspace.rope.cosines();
  batch.sines = workspace.rope.sines();
}

void Decoder::embed(const Workspace& workspace, Probe* probe) {
  Backend& backend = *workspace.stage.backend;
  const int64_t count = workspace.batch.rows();
  const Rows x = workspace.activations.x.first(count);
  const float* positions = weights_.embed_positions;
  const auto wants = [&](Point point) { return probe != nullptr && probe->wants({point}); };
  const auto watch = [&](Point point, Rows rows) {
    if (wants(point)) probe->at({point}, backend, rows);
  };
  if (positions != nullptr && (wants(Point::embed) || wants(Point::pos_embed))) {
    const Rows added = workspace.activations.attn_in.first(count);  // nobody has used it yet
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

void Decoder::run_stage(const Workspace& workspace, FunctionRef<void()> between_layers,
                        Probe* probe) {
  const int64_t count = workspace.batch.rows();
  const Stage& stage = workspace.stage;
  if (stage.first_layer == 0 && !workspace.batch.tokens.empty()) {
    embed(workspace, probe);
  }
  for (int64_t i = 0; i < stage.n_layers; ++i) {
    const LayerWeights& weights = weights_.layers[static_cast<size_t>(stage.first_layer + i)];
    run_layer(spec_, weights, workspace, i, probe);
    if (count > kPatientRows) between_layers();
  }
  const bool is_last = stage.first_layer + stage.n_layers == spec_.n_layers;
  if (is_last && workspace.batch.repeats >= 0) logits_.record(workspace);
  if (is_last && probe != nullptr) logits_.watch(workspace, *probe);
}

}  // namespace pythia_rt
