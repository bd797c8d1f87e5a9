#include "writing/write.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "base/error.h"
#include "forward/edit_probe.h"
#include "writing/seconds.h"

namespace pythia_rt {

namespace {

// A pass with more texts has no row to spare for guesses.
constexpr int64_t kMostRowsWithGuesses = 16;

void check(const std::vector<Writer*>& writers, int64_t max_rows) {
  if (max_rows < 1 || max_rows > kMaxRows) {
    throw_invalid("a pass has between 1 and ", kMaxRows, " rows, not ", max_rows);
  }
  std::vector<const Sequence*> sequences;
  for (const Writer* writer : writers) sequences.push_back(&writer->sequence());
  check_batch(sequences);
}

// Calls task(i) for each writer: nothing of theirs is shared, but that a hook may be. Those without
// one come first, while the pass's threads are awake.
void each_writer(const std::vector<Writer*>& writers, FunctionRef<void(size_t index)> task) {
  std::vector<size_t> plain, hooked;
  for (size_t i = 0; i < writers.size(); ++i) {
    (writers[i]->has_hook() ? hooked : plain).push_back(i);
  }
  if (!plain.empty()) {
    writers.front()->sequence().model().spread(static_cast<int64_t>(plain.size()), [&](int64_t i) {
      task(plain[static_cast<size_t>(i)]);
    });
  }
  for (const size_t i : hooked) task(i);
}

// What takes part in a pass.
class Pass {
 public:
  Pass(const std::vector<Writer*>& writers, const Pace& pace, int64_t max_rows,
       FunctionRef<void()> interrupt)
      : room_(max_rows) {
    std::vector<Writer*> texts, prompts;
    for (Writer* writer : writers) {
      if (writer->sequence().n_waiting() == 0) continue;
      (writer->is_writing() ? texts : prompts).push_back(writer);
    }
    const auto n_texts = std::min(static_cast<int64_t>(texts.size()), room_);
    texts.resize(static_cast<size_t>(n_texts));
    try {
      propose(texts, pace, interrupt);
    } catch (...) {
      withdraw(texts);
      throw;
    }
    for (Writer* writer : texts) add(*writer, room_);
    n_text_rows_ = n_rows_;
    int64_t left = std::min(room_, prompts.empty() ? 0 : pace.prompt_rows(n_text_rows_));
    for (Writer* writer : prompts) {
      if (left == 0) break;
      left -= add(*writer, left);
    }
  }

  bool is_empty() const { return chunks_.empty(); }

  void run(Pace& pace, FunctionRef<void()> interrupt) {
    Model& model = writers_.front()->sequence().model();
    const double begin = seconds_now();
    try {
      std::vector<RoomRequest> rooms;
      for (const Chunk& chunk : chunks_) rooms.push_back({chunk.cache, chunk.count});
      model.make_room(rooms);
      if (has_edits()) {
        run_edited(model, interrupt);
      } else {
        model.run(chunks_, interrupt);
      }
    } catch (...) {
      withdraw(writers_);
      throw;
    }
    pace.note(n_text_rows_, n_rows_ - n_text_rows_, seconds_now() - begin);
    each_writer(writers_, [&](size_t i) {
      if (!errors_.empty() && errors_[i] != nullptr) {
        writers_[i]->fail(chunks_[i], errors_[i]);
      } else {
        writers_[i]->settle(chunks_[i]);
      }
    });
    if (n_text_rows_ > 0) prepare(model.pool());
  }

 private:
  void propose(const std::vector<Writer*>& texts, const Pace& pace, FunctionRef<void()> interrupt) {
    auto n_rows = static_cast<int64_t>(texts.size());
    for (Writer* writer : texts) {
      const int64_t most = std::min(room_, kMostRowsWithGuesses) - n_rows;
      if (most < 1) return;
      n_rows += writer->propose(pace, n_rows, most, interrupt);
    }
  }

  bool has_edits() const {
    return std::any_of(writers_.begin(), writers_.end(),
                       [](const Writer* writer) { return writer->edits() != nullptr; });
  }

  void run_edited(Model& model, FunctionRef<void()> interrupt) {
    std::vector<const Edits*> edits;
    std::vector<SeenText*> seen;
    std::vector<TextRows> rows;
    int64_t first_row = 0;
    for (size_t i = 0; i < chunks_.size(); ++i) {
      edits.push_back(writers_[i]->edits());
      seen.push_back(&writers_[i]->seen());
      rows.push_back(
          {static_cast<int64_t>(i), first_row, chunks_[i].count, chunks_[i].cache->length()});
      first_row += chunks_[i].count;
    }
    EditProbe probe(model.spec(), model.weights(), std::move(edits), std::move(seen));
    probe.begin(rows);
    model.run(chunks_, interrupt, &probe);
    for (const TextRows& text : rows) errors_.push_back(probe.error(text.text));
  }

  int64_t add(Writer& writer, int64_t most) {
    writers_.push_back(&writer);
    chunks_.push_back(writer.chunk(most));
    const int64_t count = chunks_.back().count;
    n_rows_ += count;
    room_ -= count;
    return count;
  }

  // The next page, as far as it will be needed by then and a little more: a text would feel it if a
  // pass had to wait for all of it.
  void prepare(PagePool& pool) const {
    const KvFormat format = chunks_.front().cache->format();
    pool.prepare(format, 3 * n_rows_ * pool.page_bytes(format) / (2 * kPagePositions));
  }

  static void withdraw(const std::vector<Writer*>& writers) {
    for (Writer* writer : writers) writer->withdraw();
  }

  std::vector<Writer*> writers_;
  std::vector<Chunk> chunks_;               // of the writers
  std::vector<std::exception_ptr> errors_;  // of their edits; none where nobody has any
  int64_t room_;
  int64_t n_rows_ = 0, n_text_rows_ = 0;
};

std::vector<size_t> attention(const std::vector<Writer*>& writers) {
  std::vector<size_t> wanting;
  for (size_t i = 0; i < writers.size(); ++i) {
    if (writers[i]->wants_attention()) wanting.push_back(i);
  }
  return wanting;
}

}  // namespace

std::vector<size_t> write(const std::vector<Writer*>& writers, Pace& pace,
                          const WriteOptions& options, FunctionRef<void()> interrupt) {
  check(writers, options.max_rows);
  const double begin = seconds_now();
  std::vector<Writer*> ready;
  for (Writer* writer : writers) {
    if (writer->sequence().is_ready()) ready.push_back(writer);
  }
  each_writer(ready, [&](size_t i) { ready[i]->begin(); });
  for (;;) {
    std::vector<size_t> wanting = attention(writers);
    if (!wanting.empty()) return wanting;
    Pass pass(writers, pace, options.max_rows, interrupt);
    if (pass.is_empty()) return {};
    pass.run(pace, interrupt);
    const bool is_woken = options.wake != nullptr && options.wake->exchange(false);
    if (is_woken || seconds_now() - begin >= options.seconds) return attention(writers);
  }
}

}  // namespace pythia_rt
