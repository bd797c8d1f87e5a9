// A draft by a smaller model of the same vocabulary, which says what it finds likeliest.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/model.h"
#include "engine/sequence.h"
#include "writing/draft.h"

namespace pythia_rt {

class ModelDraft : public Draft {
 public:
  // `text` so far; ids from n_tokens on are never proposed.
  ModelDraft(std::shared_ptr<Model> model, KvFormat kv_format, int32_t n_tokens,
             std::vector<int32_t> text);

  void extend(int32_t token) override;
  // None where the model's context ends, its cache has no room or its logits are not numbers: a
  // draft is never the reason that a text fails.
  int64_t propose(int64_t count, int32_t* out, FunctionRef<void()> interrupt) override;
  bool is_free() const override { return false; }
  double seconds() const override { return seconds_; }

 private:
  bool catch_up(FunctionRef<void()> interrupt);
  bool run(const int32_t* tokens, int64_t count, FunctionRef<void()> interrupt);

  Sequence sequence_;
  int64_t n_tokens_;
  std::vector<int32_t> text_;
  bool is_known_;              // every token of the text is in the model's vocabulary
  std::vector<int32_t> read_;  // what stands in the sequence: text, then proposals
  size_t n_agreed_ = 0;        // first tokens of read_ that are known to be the text's
  double seconds_ = 0;
};

}  // namespace pythia_rt
