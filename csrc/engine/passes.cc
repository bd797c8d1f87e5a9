#include "engine/passes.h"

#include <algorithm>

namespace pythia_rt {

namespace {

// Of what waits in a sequence, the first token that is asked about; and how many were before it.
int64_t first_asked(const Request& request) {
  return std::max<int64_t>(request.sequence->n_waiting() - request.count, 0);
}
int64_t n_answered(const Request& request) {
  return request.count - (request.sequence->n_waiting() - first_asked(request));
}

// A pass over some of the waiting tokens.
class Pass {
 public:
  // Takes for each request as many tokens as there is room for.
  explicit Pass(const std::vector<Request>& requests) : first_(requests.data()) {
    int64_t room = kMaxRows;
    for (const Request& request : requests) {
      const int64_t n_waiting = request.sequence->n_waiting();
      if (n_waiting == 0 || room == 0) continue;
      add(request, std::min(n_waiting, room));
      room -= chunks_.back().count;
    }
  }

  bool is_empty() const { return chunks_.empty(); }

  // The pages must have been taken.
  void run(FunctionRef<void()> interrupt, Probe* probe = nullptr) {
    for (const Request* request : requests_) request->sequence->keep_logits(false);
    if (probe != nullptr) {
      probe->begin(texts());
      for (Chunk& chunk : chunks_) {
        if (probe->starts()) chunk.tokens = nullptr;
      }
    }
    model().run(chunks_, interrupt, probe);
    const std::vector<int64_t>* layers = probe == nullptr ? nullptr : probe->layers();
    for (size_t i = 0; i < chunks_.size(); ++i) settle(*requests_[i], chunks_[i].count, layers);
  }

 private:
  Model& model() const { return requests_.front()->sequence->model(); }

  void add(const Request& request, int64_t count) {
    Sequence& sequence = *request.sequence;
    const bool is_last = count == sequence.n_waiting();
    Chunk chunk{&sequence.cache(), sequence.waiting(), count, first_asked(request)};
    const int64_t n_asked = std::max<int64_t>(count - chunk.first_wanted, 0);
    if (request.terms != nullptr) {
      chunk.terms = request.terms + n_answered(request);
      const bool ends = is_last && !request.next;
      chunk.n_terms = std::max<int64_t>(n_asked - (ends ? 1 : 0), 0);
      if (!ends) chunk.next = is_last ? *request.next : sequence.waiting()[count];
    } else if (request.logits != nullptr) {
      const int64_t vocab_size = sequence.model().spec().vocab_size;
      if (n_asked > 0) chunk.logits = request.logits + n_answered(request) * vocab_size;
    } else if (is_last && !request.only_probed) {
      chunk.first_wanted = count - 1;
      chunk.logits = sequence.room_for_logits();
    }
    requests_.push_back(&request);
    chunks_.push_back(chunk);
  }

  // As a probe wants to know them.
  std::vector<TextRows> texts() const {
    std::vector<TextRows> texts;
    int64_t first_row = 0;
    for (size_t i = 0; i < chunks_.size(); ++i) {
      texts.push_back(
          {requests_[i] - first_, first_row, chunks_[i].count, chunks_[i].cache->length()});
      first_row += chunks_[i].count;
    }
    return texts;
  }

  // After the pass: the sequence takes over what was run, and keeps the logits after its end.
  static void settle(const Request& request, int64_t count, const std::vector<int64_t>* layers) {
    Sequence& sequence = *request.sequence;
    sequence.take(count, layers);
    if (request.terms != nullptr || request.only_probed || sequence.n_waiting() > 0) return;
    if (request.logits != nullptr) {
      const int64_t vocab_size = sequence.model().spec().vocab_size;
      std::copy_n(request.logits + (request.count - 1) * vocab_size, vocab_size,
                  sequence.room_for_logits());
    }
    sequence.keep_logits(true);
  }

  const Request* first_;  // of all requests
  std::vector<Chunk> chunks_;
  std::vector<const Request*> requests_;  // of the chunks
};

// For what waits, and for the requests' tokens if they are yet to be appended.
void take_pages(const std::vector<Request>& requests, bool with_new) {
  if (requests.empty()) return;
  std::vector<RoomRequest> rooms;
  for (const Request& request : requests) {
    const int64_t count = request.sequence->n_waiting() + (with_new ? request.count : 0);
    rooms.push_back({&request.sequence->cache(), count});
  }
  requests.front().sequence->model().make_room(rooms);
}

void check_sequences(const std::vector<Request>& requests, const Probe* probe) {
  std::vector<const Sequence*> sequences;
  for (const Request& request : requests) sequences.push_back(request.sequence);
  check_batch(sequences);
  for (const Sequence* sequence : sequences) {
    sequence->check_layers(probe == nullptr ? nullptr : probe->layers());
  }
}

void run_passes(const std::vector<Request>& requests, FunctionRef<void()> interrupt, Probe* probe) {
  try {
    for (;;) {
      Pass pass(requests);
      if (pass.is_empty()) return;
      pass.run(interrupt, probe);
    }
  } catch (...) {
    for (const Request& request : requests) request.sequence->drop_waiting();
    throw;
  }
}

}  // namespace

void run_to_end(const std::vector<Request>& requests, FunctionRef<void()> interrupt, Probe* probe) {
  check_sequences(requests, probe);
  take_pages(requests, false);
  run_passes(requests, interrupt, probe);
}

void append_and_run(const std::vector<Request>& requests, const std::vector<const int32_t*>& tokens,
                    FunctionRef<void()> interrupt, Probe* probe) {
  check_sequences(requests, probe);
  for (size_t i = 0; i < requests.size(); ++i) {
    const Request& request = requests[i];
    request.sequence->check(tokens[i], request.count);
    if (request.next) request.sequence->check_known(&*request.next, 1, request.count);
  }
  take_pages(requests, true);
  for (size_t i = 0; i < requests.size(); ++i)
    requests[i].sequence->append(tokens[i], requests[i].count);
  run_passes(requests, interrupt, probe);
}

}  // namespace pythia_rt
