// Changes to what stands at places of a pass.
#pragma once

#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "backend/backend.h"
#include "forward/points.h"
#include "model/spec.h"

namespace pythia_rt {

// A base of what functions throw that is not about their rows: somebody wants them to stop.
struct Interruption {};
bool is_interruption(const std::exception_ptr& error);

// One that is made outside the core.
class RowFunction {
 public:
  virtual ~RowFunction() = default;
  // Changes values [n][width], or [n][n_heads][keys], of the n positions, in place. `shape` is
  // theirs. May throw.
  virtual void change(float* values, const std::vector<int64_t>& shape,
                      const int64_t* positions) = 0;
};

// x becomes scale * x + shift, where a scale of 0 leaves nothing of x, whatever it was; or what a
// function makes of it.
struct Edit {
  std::optional<std::vector<int64_t>> positions;  // of the text, increasing; or all
  std::vector<float> scale;                       // [width]; where a row is of keys, [n_heads] or 1
  std::vector<float> shift;                       // the same, or one for each of the positions
  std::shared_ptr<RowFunction> function;          // or null
};

// Of one text, in the order in which they are made.
class Edits {
 public:
  // Throws std::invalid_argument for a place that the model has not, and what does not fit there.
  void add(const Spec& spec, const Place& place, Edit edit);

  // Null where there are none.
  const std::vector<Edit>* at(const Place& place) const;
  const std::map<Place, std::vector<Edit>>& places() const { return places_; }

 private:
  std::map<Place, std::vector<Edit>> places_;
};

bool has_function(const std::vector<Edit>& edits);

// 0 times anything is 0, and what is not shifted keeps the sign of its zeros.
inline float changed(float scale, float shift, float value) {
  const float scaled = scale * value;
  const float shifted = shift == 0.0f ? scaled : scaled + shift;
  return scale == 0.0f ? shift : shifted;
}

// The rows [begin, end) of those that have consecutive positions, `first_position` the first of
// all: that part of an edit that is no function.
void change_rows(const Edit& edit, Rows rows, int64_t begin, int64_t end, int64_t first_position);

// Which of the positions [first, end) an edit is about: the numbers [begin, end) of them among its
// own.
struct Reach {
  int64_t begin, end;
};
Reach reach_of(const std::vector<int64_t>& positions, int64_t first, int64_t end);

}  // namespace pythia_rt
