#include "writing/model_draft.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "engine/passes.h"
#include "writing/seconds.h"

namespace pythia_rt {

ModelDraft::ModelDraft(std::shared_ptr<Model> model, KvFormat kv_format, int32_t n_tokens,
                       std::vector<int32_t> text)
    : sequence_(std::move(model), 0, kv_format),
      n_tokens_(std::min<int64_t>(n_tokens, sequence_.model().spec().n_tokens)),
      text_(std::move(text)),
      is_known_(std::all_of(text_.begin(), text_.end(), [&](int32_t token) {
        return token < sequence_.model().spec().vocab_size;
      })) {}

void ModelDraft::extend(int32_t token) {
  text_.push_back(token);
  is_known_ = is_known_ && token < sequence_.model().spec().vocab_size;
}

bool ModelDraft::run(const int32_t* tokens, int64_t count, FunctionRef<void()> interrupt) {
  if (count > sequence_.capacity() - sequence_.position()) return false;
  try {
    append_and_run({{&sequence_, count}}, {tokens}, interrupt);
  } catch (const NoRoom&) {
    return false;
  } catch (...) {
    read_.resize(static_cast<size_t>(sequence_.position()));
    throw;
  }
  read_.insert(read_.end(), tokens, tokens + count);
  return true;
}

// Reads what the text has beyond what was read before, at least its last token.
bool ModelDraft::catch_up(FunctionRef<void()> interrupt) {
  const size_t most = std::min(read_.size(), text_.size() - 1);
  n_agreed_ = std::min(n_agreed_, most);
  while (n_agreed_ < most && read_[n_agreed_] == text_[n_agreed_]) ++n_agreed_;
  sequence_.rewind(static_cast<int64_t>(n_agreed_));
  read_.resize(n_agreed_);
  return run(text_.data() + n_agreed_, static_cast<int64_t>(text_.size() - n_agreed_), interrupt);
}

int64_t ModelDraft::propose(int64_t count, int32_t* out, FunctionRef<void()> interrupt) {
  if (text_.empty() || !is_known_ || count == 0) return 0;
  if (!catch_up(interrupt)) return 0;
  for (int64_t i = 0; i < count; ++i) {
    const float* logits = sequence_.last_logits().data();
    const float* best = std::max_element(logits, logits + n_tokens_);
    if (!std::isfinite(*best)) return i;
    out[i] = static_cast<int32_t>(best - logits);
    if (i + 1 == count) break;
    const double begin = seconds_now();
    if (!run(out + i, 1, interrupt)) return i + 1;
    follow(seconds_, seconds_now() - begin);
  }
  return count;
}

}  // namespace pythia_rt
