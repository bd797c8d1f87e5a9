#include "forward/decoder.h"

#include "forward/layer.h"
#include "forward/norm.h"

namespace pythia_rt {

Decoder::Decoder(const Spec& spec, const Weights& weights, const Stages& stages)
    : spec_(spec), weights_(weights), logits_(spec, weights) {
  for (const Stage& stage : stages) {
    workspaces_.push_back(std::make_unique<Workspace>(spec, weights, stage));
    Leg& leg = legs_.emplace_back(Leg{legs_.size(), {}});
    for (int64_t i = 0; i < stage.n_layers; ++i) leg.layers.push_back(stage.first_layer + i);
  }
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
  for (size_t i = 0; i < workspaces_.size(); ++i) begin(i, chunks, repeats);
  const std::vector<int64_t>* layers = probe == nullptr ? nullptr : probe->layers();
  const std::vector<Leg> chosen = layers == nullptr ? std::vector<Leg>() : legs_over(*layers);
  const std::vector<Leg>& legs = layers == nullptr ? legs_ : chosen;
  for (size_t i = 0; i < legs.size(); ++i) {
    if (i > 0) move(legs[i - 1].stage, legs[i].stage);
    Workspace& workspace = *workspaces_[legs[i].stage];
    workspace.stage.backend->pass(workspace.batch, [&] {
      run_leg(legs[i], i == 0, i + 1 == legs.size(), between_layers, probe);
    });
  }
  for (const Chunk& chunk : chunks) {
    chunk.cache->set_length(chunk.cache->length() + chunk.count);
  }
  logits_.compute(*workspaces_.back());
  logits_.compute_terms(*workspaces_.back(), chunks);
}

size_t Decoder::stage_of(int64_t layer) const {
  size_t stage = 0;
  while (stage + 1 < workspaces_.size() && workspaces_[stage + 1]->stage.first_layer <= layer) {
    ++stage;
  }
  return stage;
}

// From the embedding, which is on the first stage, to the head, on the last one.
std::vector<Decoder::Leg> Decoder::legs_over(const std::vector<int64_t>& layers) const {
  std::vector<Leg> legs{{0, {}}};
  const auto go_to = [&](size_t stage) {
    if (legs.back().stage != stage) legs.push_back({stage, {}});
  };
  for (const int64_t layer : layers) {
    go_to(stage_of(layer));
    legs.back().layers.push_back(layer);
  }
  go_to(workspaces_.size() - 1);
  return legs;
}

// The residual stream, from one stage's device to another's.
void Decoder::move(size_t from, size_t to) {
  const Workspace& source = *workspaces_[from];
  const Workspace& target = *workspaces_[to];
  const Rows x = source.activations.x.first(source.batch.rows());
  hidden_.resize(static_cast<size_t>(x.count * x.width));
  source.stage.backend->read(x, hidden_.data());
  target.stage.backend->write(hidden_.data(), target.activations.x.first(x.count));
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

void Decoder::run_leg(const Leg& leg, bool is_first, bool is_last,
                      FunctionRef<void()> between_layers, Probe* probe) {
  const Workspace& workspace = *workspaces_[leg.stage];
  const int64_t count = workspace.batch.rows();
  const Stage& stage = workspace.stage;
  if (is_first && probe != nullptr && probe->starts()) {
    probe->start(*stage.backend, workspace.activations.x.first(count));
  } else if (is_first) {
    embed(workspace, probe);
  }
  for (const int64_t layer : leg.layers) {
    const LayerWeights& weights = weights_.layers[static_cast<size_t>(layer)];
    run_layer(spec_, weights, workspace, layer - stage.first_layer, probe);
    if (count > kPatientRows) between_layers();
  }
  if (is_last && workspace.batch.repeats >= 0) logits_.record(workspace);
  if (is_last && probe != nullptr) logits_.watch(workspace, *probe);
}

}  // namespace pythia_rt
