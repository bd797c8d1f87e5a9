#include "writing/model_draft.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "engine/passes.h"

namespace pythia_rt {

namespace {

// How fast the measured time of a token follows the last one.
constexpr double kFollow = 0.2;

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

ModelDraft::ModelDraft(std::shared_ptr<Model> model, KvFormat kv_format, int32_t n_tokens,
                       std::vector<int32_t> text)
    : sequence_(std::move(model), 0, kv_format),
      n_tokens_(std::min<int64_t>(n_tokens, sequence_.model().spec().n_tokens)),
      text_(std::move(text)) {}

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
  const auto agreed = static_cast<size_t>(
      std::mismatch(read_.begin(), read_.begin() + static_cast<std::ptrdiff_t>(most), text_.begin())
          .first -
      read_.begin());
  sequence_.rewind(static_cast<int64_t>(agreed));
  read_.resize(agreed);
  return run(text_.data() + agreed, static_cast<int64_t>(text_.size() - agreed), interrupt);
}

int64_t ModelDraft::propose(int64_t count, int32_t* out, FunctionRef<void()> interrupt) {
  const auto& vocabulary = sequence_.model().spec();
  const bool is_known = std::all_of(text_.begin(), text_.end(),
                                    [&](int32_t token) { return token < vocabulary.vocab_size; });
  if (text_.empty() || !is_known || count == 0) return 0;
  if (!catch_up(interrupt)) return 0;
  for (int64_t i = 0; i < count; ++i) {
    const float* logits = sequence_.last_logits().data();
    const float* best = std::max_element(logits, logits + n_tokens_);
    if (!std::isfinite(*best)) return i;
    out[i] = static_cast<int32_t>(best - logits);
    if (i + 1 == count) break;
    const double begin = seconds_now();
    if (!run(out + i, 1, interrupt)) return i + 1;
    const double seconds = seconds_now() - begin;
    seconds_ += seconds_ == 0 ? seconds : kFollow * (seconds - seconds_);
  }
  return count;
}

}  // namespace pythia_rt
