#include "engine/step.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/error.h"
#include "engine/log_softmax.h"

namespace pythia_rt {

namespace {

// A pass over some of the waiting tokens.
class Pass {
 public:
  // Takes of each work as many tokens as there is room for, first of those that wait for one.
  Pass(const std::vector<Work>& works, int64_t max_rows) {
    int64_t room = max_rows;
    for (const bool is_single : {true, false}) {
      for (const Work& work : works) {
        const int64_t n_waiting = work.sequence->n_waiting();
        if (n_waiting == 0 || room == 0 || (n_waiting == 1) != is_single) continue;
        add(work, std::min(n_waiting, room));
        room -= chunks_.back().count;
      }
    }
  }

  bool is_empty() const { return chunks_.empty(); }

  // Pages for its tokens. Throws NoRoom, and nothing has changed.
  void take_pages() {
    std::vector<RoomRequest> requests;
    for (const Chunk& chunk : chunks_) requests.push_back({chunk.cache, chunk.count});
    model().make_room(requests);
  }

  // The pages must have been taken.
  void run(FunctionRef<void()> interrupt, Probe* probe = nullptr) {
    for (const Entry& entry : entries_) entry.work->sequence->keep_logits(false);
    for (size_t i = 0; i < chunks_.size(); ++i) {
      if (chunks_[i].n_terms > 0) chunks_[i].terms = terms_.data() + entries_[i].first_term;
    }
    if (probe != nullptr) probe->begin(numbers());
    model().run(chunks_, interrupt, probe);
    for (size_t i = 0; i < chunks_.size(); ++i) settle(entries_[i], chunks_[i]);
  }

 private:
  // What a chunk is for.
  struct Entry {
    const Work* work;
    int64_t n_answered;   // of what the work asks, by earlier passes
    int64_t first_asked;  // of the chunk's tokens
    size_t first_term;    // in terms_
    bool is_last;         // nothing waits afterwards
  };

  Model& model() const { return entries_.front().work->sequence->model(); }

  void add(const Work& work, int64_t count) {
    Sequence& sequence = *work.sequence;
    const int64_t n_waiting = sequence.n_waiting();
    const int64_t first_asked = std::max<int64_t>(n_waiting - work.count, 0);
    const int64_t n_asked = std::max<int64_t>(count - first_asked, 0);
    const Entry entry{&work, work.count - (n_waiting - first_asked), first_asked, terms_.size(),
                      count == n_waiting};
    Chunk chunk{&sequence.cache(), sequence.waiting(), count};
    if (work.log_probabilities != nullptr) {
      chunk.first_wanted = first_asked;
      chunk.n_terms = std::max<int64_t>(n_asked - (entry.is_last ? 1 : 0), 0);
      terms_.resize(terms_.size() + static_cast<size_t>(chunk.n_terms));
    } else if (work.logits != nullptr) {
      chunk.first_wanted = first_asked;
      const int64_t vocab_size = sequence.model().spec().vocab_size;
      if (n_asked > 0) chunk.logits = work.logits + entry.n_answered * vocab_size;
    } else if (entry.is_last) {
      chunk.first_wanted = count - 1;
      chunk.logits = sequence.room_for_logits();
    }
    entries_.push_back(entry);
    chunks_.push_back(chunk);
  }

  // Of the rows, as a probe wants to know them.
  std::vector<int64_t> numbers() const {
    std::vector<int64_t> numbers;
    for (size_t i = 0; i < chunks_.size(); ++i) {
      const Entry& entry = entries_[i];
      for (int64_t j = 0; j < chunks_[i].count; ++j) {
        const int64_t number = entry.work->first_number + entry.n_answered + j - entry.first_asked;
        numbers.push_back(j < entry.first_asked ? -1 : number);
      }
    }
    return numbers;
  }

  // After the pass: the sequence takes over what was run, the work its answers.
  static void settle(const Entry& entry, const Chunk& chunk) {
    const Work& work = *entry.work;
    Sequence& sequence = *work.sequence;
    sequence.take(chunk.count);
    if (work.log_probabilities != nullptr) {
      for (int64_t i = 0; i < chunk.n_terms; ++i) {
        const SoftmaxTerm& term = chunk.terms[i];
        work.log_probabilities[entry.n_answered + i] = log_softmax(term);
        work.is_likeliest[entry.n_answered + i] = term.logit >= term.largest;
      }
      return;
    }
    if (!entry.is_last) return;
    if (work.logits != nullptr) {
      const int64_t vocab_size = sequence.model().spec().vocab_size;
      std::copy_n(work.logits + (work.count - 1) * vocab_size, vocab_size,
                  sequence.room_for_logits());
    }
    sequence.keep_logits(true);
  }

  std::vector<Chunk> chunks_;
  std::vector<Entry> entries_;      // of the chunks
  std::vector<SoftmaxTerm> terms_;  // of all chunks, whose places are known once all are there
};

// For what waits, and for the works' tokens if they are yet to be appended.
void take_pages(const std::vector<Work>& works, bool with_new) {
  if (works.empty()) return;
  std::vector<RoomRequest> requests;
  for (const Work& work : works) {
    const int64_t count = work.sequence->n_waiting() + (with_new ? work.count : 0);
    requests.push_back({&work.sequence->cache(), count});
  }
  works.front().sequence->model().make_room(requests);
}

void check_sequences(const std::vector<Work>& works) {
  std::set<const Sequence*> seen;
  for (const Work& work : works) {
    if (&work.sequence->model() != &works.front().sequence->model()) {
      throw_invalid("the sessions of a batch must share a model");
    }
    if (!seen.insert(work.sequence).second) {
      throw_invalid("a batch names the same session twice");
    }
  }
}

void run_passes(const std::vector<Work>& works, FunctionRef<void()> interrupt, Probe* probe) {
  try {
    for (;;) {
      Pass pass(works, kMaxRows);
      if (pass.is_empty()) return;
      pass.run(interrupt, probe);
    }
  } catch (...) {
    for (const Work& work : works) work.sequence->drop_waiting();
    throw;
  }
}

}  // namespace

void run_to_end(const std::vector<Work>& works, FunctionRef<void()> interrupt, Probe* probe) {
  check_sequences(works);
  take_pages(works, false);
  run_passes(works, interrupt, probe);
}

void append_and_run(const std::vector<Work>& works, const std::vector<const int32_t*>& tokens,
                    FunctionRef<void()> interrupt, Probe* probe) {
  check_sequences(works);
  for (size_t i = 0; i < works.size(); ++i) works[i].sequence->check(tokens[i], works[i].count);
  take_pages(works, true);
  for (size_t i = 0; i < works.size(); ++i) works[i].sequence->append(tokens[i], works[i].count);
  run_passes(works, interrupt, probe);
}

std::vector<Outcome> step(const std::vector<Writer>& writers, int64_t max_rows,
                          FunctionRef<void()> interrupt) {
  if (max_rows < 1 || max_rows > kMaxRows) {
    throw_invalid("a pass has between 1 and ", kMaxRows, " rows, not ", max_rows);
  }
  std::vector<Work> works;
  for (const Writer& writer : writers) works.push_back({writer.sequence});
  check_sequences(works);
  Pass pass(works, max_rows);
  if (!pass.is_empty()) {
    pass.take_pages();
    pass.run(interrupt);
  }
  std::vector<Outcome> outcomes;
  for (size_t i = 0; i < writers.size(); ++i) {
    if (!writers[i].sequence->is_ready()) continue;
    Outcome outcome{i};
    try {
      outcome.sampled = writers[i].sequence->sample(*writers[i].sampler);
    } catch (const std::exception&) {
      outcome.error = std::current_exception();
    }
    outcomes.push_back(std::move(outcome));
  }
  return outcomes;
}

}  // namespace pythia_rt
