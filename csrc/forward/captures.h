// Copies what stands at places of passes to where somebody wants it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "forward/probe.h"

namespace pythia_rt {

// Of a text, the tokens that are captured.
struct WantedTokens {
  int64_t first_position;  // of the text's token number 0; those before are nobody's
  int64_t count;           // of its tokens
  std::optional<std::vector<int64_t>> numbers;  // of the wanted ones, increasing; or all

  int64_t n_wanted() const { return numbers ? static_cast<int64_t>(numbers->size()) : count; }
};

// Takes rows as they come.
class RowSink {
 public:
  virtual ~RowSink() = default;
  // Memory for values of that shape, of a capture and of positions of a text. It is filled by the
  // time that deliver() is called, for all of it together.
  virtual void* room(size_t capture, int64_t text, const std::vector<int64_t>& positions,
                     const std::vector<int64_t>& shape) = 0;
  virtual void deliver() = 0;
};

// Wanted rows of a pass that follow each other in it and where they go.
struct WantedRows {
  int64_t text;
  int64_t first_row;  // of the pass
  int64_t count;
  int64_t first_position;
  int64_t first_out;  // of the text's wanted tokens
};

class Captures {
 public:
  // In f32, or in f16, where what is too large is infinite. The sink may be null.
  Captures(std::vector<WantedTokens> texts, bool in_halves, RowSink* sink);

  // A place that is not among those before, of which the sink is told `index`. out: [wanted tokens
  // of all texts][width]; null with a sink.
  void add(const Place& place, size_t index, void* out);
  bool wants(const Place& place) const { return outs_.count(place) != 0; }

  void begin(const std::vector<TextRows>& rows);
  const std::vector<WantedRows>& rows() const { return rows_; }
  void at(const Place& place, Backend& backend, Rows values);

 private:
  struct Out {
    size_t index;
    std::byte* data;
  };

  void add_rows(const TextRows& rows);
  std::vector<std::byte*> rooms(size_t index, int64_t width);

  std::vector<WantedTokens> texts_;
  std::vector<int64_t> first_of_text_;  // among the wanted tokens of all texts
  bool in_halves_;
  RowSink* sink_;
  std::map<Place, Out> outs_;
  std::vector<WantedRows> rows_;  // of the pass
};

// Rounds values to f16.
void copy_as_halves(const float* values, int64_t count, uint16_t* out);

}  // namespace pythia_rt
