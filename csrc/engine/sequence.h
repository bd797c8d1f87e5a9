// One sequence: its tokens, as far as they are known to its cache or wait for a pass.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cache/kv_cache.h"
#include "cache/prefix_index.h"
#include "engine/model.h"
#include "sampling/sampler.h"

namespace pythia_rt {

// A sampled token and its log-probability under the model, before any sampling step.
struct SampledToken {
  int32_t token;
  float log_probability;
};

// Tokens are appended, wait, and are taken by passes (engine/passes.h), which keep the logits after
// the last one. One thread at a time.
class Sequence {
 public:
  // `capacity` positions at most; 0 for as many as the model has.
  Sequence(std::shared_ptr<Model> model, int64_t capacity, KvFormat kv_format);

  // Another one that has come as far. They share the pages of their caches until one of them writes
  // into a page. Nobody may use this one meanwhile.
  Sequence fork() const { return *this; }

  Model& model() const { return *model_; }
  int64_t capacity() const { return capacity_; }
  // Tokens so far, those that wait included.
  int64_t position() const { return cache_.length() + n_waiting(); }
  int64_t n_waiting() const { return static_cast<int64_t>(waiting_.size()) - n_taken_; }

  // Throws std::invalid_argument for no tokens, tokens out of the vocabulary or more than there is
  // room for.
  void check(const int32_t* tokens, int64_t count) const;

  // Throws std::invalid_argument for tokens out of the vocabulary, which it counts from
  // `first_index` on.
  void check_known(const int32_t* tokens, int64_t count, int64_t first_index = 0) const;

  // Appends tokens, which wait. Throws as check() does, before anything is appended.
  void append(const int32_t* tokens, int64_t count);

  // Samples the next token from the kept logits, nothing waiting, and appends it: it waits for the
  // next pass, so that a last token costs none. Throws std::invalid_argument without logits or
  // without room, and what the sampler throws.
  SampledToken sample(Sampler& sampler);

  // Forgets everything after the first `position` tokens. There are no kept logits afterwards.
  void rewind(int64_t position);

  // A page of the cache on the host, page_bytes() (see KvCache::read_page).
  int64_t n_pages() const { return cache_.n_pages(); }
  int64_t page_bytes() const { return model_->pool().page_bytes(cache_.format()); }
  void read_page(int64_t index, std::byte* out) const;
  // Becomes `count` positions longer by such a page of a sequence that had come as far. There are
  // no kept logits afterwards. Throws std::invalid_argument for a count that is no page's or beyond
  // the capacity, where something waits or the last page is not full; NoRoom, and nothing has
  // changed.
  void append_page(const std::byte* bytes, int64_t count);

  // For reuse of what was read before. The longest beginning of the tokens that the index knows, at
  // most `count` - 1 positions and the capacity: an empty sequence becomes so long. Returns how
  // long. Throws std::invalid_argument for one that is not empty.
  int64_t adopt(PrefixIndex& index, const std::string& name_space, const int32_t* tokens,
                int64_t count);
  // Has the index remember the pages that its cache has for the first `count` of its tokens.
  void keep_in(PrefixIndex& index, const std::string& name_space, const int32_t* tokens,
               int64_t count) const;

  // Whether the next token can be sampled.
  bool is_ready() const { return n_waiting() == 0 && has_logits_; }
  // The kept logits [vocab_size], after the last token that was run; throws std::invalid_argument
  // where there are none.
  const std::vector<float>& last_logits() const;

  // Throws std::invalid_argument where passes through other layers, or in another order, have
  // filled its cache; null for all of them.
  void check_layers(const std::vector<int64_t>* layers) const;

  // For passes: the cache; the tokens that wait for it; that the first `count` of them are in it
  // now, by passes through these layers; that the others never will be, and need no pages; where
  // logits are kept [vocab_size], and whether they are those after the last token that was run.
  KvCache& cache() { return cache_; }
  const int32_t* waiting() const { return waiting_.data() + n_taken_; }
  void take(int64_t count, const std::vector<int64_t>* layers = nullptr);
  void drop_waiting();
  float* room_for_logits();
  void keep_logits(bool kept) { has_logits_ = kept; }

 private:
  std::shared_ptr<Model> model_;
  int64_t capacity_;
  KvCache cache_;
  std::vector<int32_t> waiting_;  // from n_taken_ on
  int64_t n_taken_ = 0;
  std::optional<std::vector<int64_t>> layers_;  // that have filled the cache, if not all
  std::vector<float> logits_;                   // [vocab_size], or empty where there never were any
  bool has_logits_ = false;
};

// Throws std::invalid_argument for sequences of different models, or one that is named twice: they
// cannot share passes.
void check_batch(const std::vector<const Sequence*>& sequences);

}  // namespace pythia_rt
