#include "forward/patterns.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/window.h"

namespace pythia_rt {

namespace {

constexpr float kUnseen = -std::numeric_limits<float>::infinity();

// In 16 sums, so that the compiler computes some at a time.
float dot(const float* a, const float* b, int64_t n) {
  constexpr int64_t kSums = 16;
  float sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= n; i += kSums) {
    for (int64_t j = 0; j < kSums; ++j) sums[j] += a[i + j] * b[i + j];
  }
  for (int64_t j = 0; i + j < n; ++j) sums[j] += a[i + j] * b[i + j];
  for (int64_t half = kSums / 2; half > 0; half /= 2) {
    for (int64_t j = 0; j < half; ++j) sums[j] += sums[j + half];
  }
  return sums[0];
}

// Where nothing is seen, or everything is -inf, the pattern is 0.
void softmax(float* scores, int64_t n) {
  const float largest = *std::max_element(scores, scores + n);
  if (largest == kUnseen) {
    std::fill_n(scores, n, 0.0f);
    return;
  }
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double e = std::exp(static_cast<double>(scores[i]) - static_cast<double>(largest));
    scores[i] = static_cast<float>(e);
    sum += e;
  }
  for (int64_t i = 0; i < n; ++i) {
    scores[i] = static_cast<float>(static_cast<double>(scores[i]) / sum);
  }
}

// Of a layer, null for nothing.
const float* of_layer(const std::map<int64_t, std::vector<float>>& constants, int64_t layer) {
  const auto found = constants.find(layer);
  return found == constants.end() ? nullptr : found->second.data();
}

bool is_about(const Edit& edit, int64_t position) {
  return !edit.positions ||
         std::binary_search(edit.positions->begin(), edit.positions->end(), position);
}

}  // namespace

struct Patterns::Task {
  int64_t layer;
  Backend& backend;
  const AttentionRows& rows;
  Rows q, z;  // the text's
  const TextRows& text;
  const SeenKeys& seen;
  Editor& editor;
  PatternCaptures* captures;
  float* scores;  // [rows][n_heads][keys]

  int64_t n_heads() const { return rows.heads.n_heads; }
  int64_t n_keys() const { return text.first_position + text.count; }
  int64_t row_size() const { return n_heads() * n_keys(); }
  int64_t position(int64_t row) const { return text.first_position + row; }
  // Keys that a row sees: those from here to its position.
  int64_t first_key(int64_t row) const {
    return first_seen(position(row) + 1, rows.scoring.window);
  }
};

void Patterns::at(int64_t layer, Backend& backend, const AttentionRows& rows,
                  const std::vector<TextRows>& texts, const std::vector<SeenText*>& seen_texts,
                  Editor& editor, PatternCaptures* captures) {
  const bool is_captured = captures != nullptr && captures->wants_layer(layer);
  for (const TextRows& text : texts) {
    const bool is_edited = editor.edits({Point::scores, layer}, text.text) != nullptr ||
                           editor.edits({Point::pattern, layer}, text.text) != nullptr;
    if (!is_captured && !is_edited) continue;
    const auto part = [&](Rows all) {
      return Rows{all.row(text.first_row), text.count, all.width, all.stride};
    };
    editor.on_behalf(text.text, [&] {
      SeenKeys& seen = (*seen_texts[static_cast<size_t>(text.text)])[layer];
      // No pattern needs what is left out of keys, but for its last bits: sums alone go without.
      const bool is_shown = is_edited || captures->has_rows(layer);
      const float* left_out = is_shown ? of_layer(weights_.left_out.keys, layer) : nullptr;
      remember(seen, left_out, backend, rows, text, is_edited);
      const int64_t n_keys = text.first_position + text.count;
      scores_.resize(static_cast<size_t>(text.count * rows.heads.n_heads * n_keys));
      compute({layer, backend, rows, part(rows.q), part(rows.z), text, seen, editor,
               is_captured ? captures : nullptr, scores_.data()});
    });
  }
}

// A text that goes back forgets what it saw from there on.
void Patterns::remember(SeenKeys& seen, const float* left_out, Backend& backend,
                        const AttentionRows& rows, const TextRows& text, bool with_values) {
  const auto append = [&](std::vector<float>& kept, Rows all) {
    const auto before = static_cast<size_t>(text.first_position * all.width);
    if (kept.size() < before) {
      throw_invalid("scores and patterns are those of a text from its first token on, and ",
                    text.first_position, " tokens were read before");
    }
    kept.resize(before + static_cast<size_t>(text.count * all.width));
    backend.read({all.row(text.first_row), text.count, all.width, all.stride},
                 kept.data() + before);
    return kept.data() + before;
  };
  float* keys = append(seen.keys, rows.k);
  if (left_out != nullptr) {
    for (int64_t i = 0; i < text.count * rows.k.width; ++i) keys[i] += left_out[i % rows.k.width];
  }
  if (with_values) append(seen.values, rows.v);
}

void Patterns::compute(const Task& task) {
  const Place scores{Point::scores, task.layer}, pattern{Point::pattern, task.layer};
  const std::vector<Edit>* score_edits = task.editor.edits(scores, task.text.text);
  const std::vector<Edit>* pattern_edits = task.editor.edits(pattern, task.text.text);
  const bool is_edited = score_edits != nullptr || pattern_edits != nullptr;
  const auto row_of = [&](int64_t row) { return task.scores + row * task.row_size(); };
  const auto each_row = [&](const auto& function) {
    task.backend.on_host(task.q, false, [&](Rows host, int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) function(host.row(row), row);
    });
  };
  const auto take = [&](const Place& place) {
    if (task.captures == nullptr || !task.captures->wants(place)) return;
    task.captures->open(place, task.text.text, task.n_keys());
    each_row([&](const float*, int64_t row) {
      task.captures->take(place, task.position(row), row_of(row), task.n_keys());
    });
    task.captures->deliver();
  };
  each_row([&](const float* query, int64_t row) { score_row(task, query, row, row_of(row)); });
  edit(task, score_edits, kUnseen);
  take(scores);
  each_row([&](const float*, int64_t row) {
    for (int64_t head = 0; head < task.n_heads(); ++head) {
      softmax(row_of(row) + head * task.n_keys(), task.n_keys());
    }
  });
  edit(task, pattern_edits, 0.0f);
  take(pattern);
  if (!is_edited) return;
  task.backend.on_host(task.z, true, [&](Rows host, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) mix_row(task, row, host.row(row));
  });
}

void Patterns::score_row(const Task& task, const float* query, int64_t row, float* scores) const {
  const HeadLayout& heads = task.rows.heads;
  const int64_t position = task.position(row), first = task.first_key(row);
  std::fill_n(scores, task.row_size(), kUnseen);
  for (int64_t head = 0; head < heads.n_heads; ++head) {
    const float* keys = task.seen.keys.data() + head / heads.group() * heads.head_dim;
    const float* bias =
        weights_.score_bias == nullptr ? nullptr : weights_.score_bias + head * spec_.max_positions;
    for (int64_t key = first; key <= position; ++key) {
      const float product =
          dot(query + head * heads.head_dim, keys + key * task.rows.k.width, heads.head_dim);
      const float scaled = product * task.rows.scoring.scale;
      scores[head * task.n_keys() + key] = bias == nullptr ? scaled : scaled + bias[key];
    }
  }
}

void Patterns::mix_row(const Task& task, int64_t row, float* z) const {
  const HeadLayout& heads = task.rows.heads;
  const float* constant = of_layer(weights_.left_out.values, task.layer);
  std::fill_n(z, heads.n_heads * heads.head_dim, 0.0f);
  for (int64_t head = 0; head < heads.n_heads; ++head) {
    const float* weights = task.scores + row * task.row_size() + head * task.n_keys();
    const float* values = task.seen.values.data() + head / heads.group() * heads.head_dim;
    float* mixed = z + head * heads.head_dim;
    double sum = 0;
    for (int64_t key = task.first_key(row); key <= task.position(row); ++key) {
      const float* value = values + key * task.rows.v.width;
      for (int64_t i = 0; i < heads.head_dim; ++i) mixed[i] += weights[key] * value[i];
      sum += static_cast<double>(weights[key]);
    }
    if (constant == nullptr) continue;
    const float* left_out = constant + head / heads.group() * heads.head_dim;
    const auto lacking = static_cast<float>(sum - 1);
    for (int64_t i = 0; i < heads.head_dim; ++i) mixed[i] += lacking * left_out[i];
  }
}

// Only what a query sees changes: a function may write elsewhere, and it is `hidden` again.
void Patterns::edit(const Task& task, const std::vector<Edit>* edits, float hidden) {
  if (edits == nullptr) return;
  const int64_t n_keys = task.n_keys(), first_position = task.text.first_position;
  const auto each_head = [&](const auto& function) {
    for (int64_t row = 0; row < task.text.count; ++row) {
      for (int64_t head = 0; head < task.n_heads(); ++head) {
        function(row, head, task.scores + row * task.row_size() + head * n_keys);
      }
    }
  };
  for (const Edit& one : *edits) {
    if (one.function != nullptr) {
      call_function(one, task.scores, task.text.count, {task.n_heads(), n_keys}, first_position,
                    chosen_);
      continue;
    }
    each_head([&](int64_t row, int64_t head, float* values) {
      if (!is_about(one, task.position(row))) return;
      const float scale = one.scale[static_cast<size_t>(head)];
      const float shift = one.shift[static_cast<size_t>(head)];
      for (int64_t key = task.first_key(row); key <= task.position(row); ++key) {
        values[key] = changed(scale, shift, values[key]);
      }
    });
  }
  if (!has_function(*edits)) return;
  each_head([&](int64_t row, int64_t, float* values) {
    std::fill_n(values, task.first_key(row), hidden);
    std::fill(values + task.position(row) + 1, values + n_keys, hidden);
  });
}

}  // namespace pythia_rt
