// The neutral description of a model: a point in a space of orthogonal choices. The runtime knows
// blocks, never model names; GPT-NeoX is one point. The fields are those of fields.inc.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "base/epilogue.h"

namespace pythia_rt {

#define PYTHIA_RT_FIELD(...)
#define PYTHIA_RT_CHOICE(type, name, what, ...) enum class type { __VA_ARGS__ };
#include "model/fields.inc"
#undef PYTHIA_RT_CHOICE
#undef PYTHIA_RT_FIELD

struct Spec {
#define PYTHIA_RT_FIELD(type, name, bounds, what) type name{};
#define PYTHIA_RT_CHOICE(type, name, what, ...) type name{};
#include "model/fields.inc"
#undef PYTHIA_RT_CHOICE
#undef PYTHIA_RT_FIELD

  int64_t query_size() const { return n_heads * head_dim; }
  int64_t key_value_size() const { return n_kv_heads * head_dim; }
  int64_t qkv_size() const { return query_size() + 2 * key_value_size(); }
  // Whether half of what goes into the MLP is a gate for the other half.
  bool has_gate() const {
    switch (mlp) {
      case MlpKind::plain:
        return false;
      case MlpKind::gated:
        return true;
    }
    throw std::invalid_argument("there is no such mlp");
  }
  int64_t mlp_up_size() const { return has_gate() ? 2 * mlp_size : mlp_size; }
  // 0: a token of the layer sees all before it.
  int64_t window(int64_t layer) const {
    return windows.empty() ? 0 : windows[static_cast<size_t>(layer)];
  }
};

enum class FieldType { text, whole_number, whole_numbers, number, flag, choice };

// What may stand in a field.
struct Field {
  const char* name;  // as in the file
  const char* what;
  FieldType type;
  double least, most;                // whole numbers: both included; numbers: neither
  std::vector<std::string> choices;  // in the order of the field's enum
};

namespace fields {

template <typename Value>
constexpr FieldType type_of() {
  if constexpr (std::is_same_v<Value, bool>) {
    return FieldType::flag;
  } else if constexpr (std::is_same_v<Value, int64_t>) {
    return FieldType::whole_number;
  } else if constexpr (std::is_same_v<Value, std::vector<int64_t>>) {
    return FieldType::whole_numbers;
  } else if constexpr (std::is_floating_point_v<Value>) {
    return FieldType::number;
  } else {
    static_assert(std::is_same_v<Value, std::string>);
    return FieldType::text;
  }
}

struct Bounds {
  double least, most;
};
// Far above any model, and products of two of them stay far inside 64 bits.
constexpr Bounds from(double least) { return {least, 1 << 24}; }
constexpr Bounds below(double limit) { return {0, limit}; }
constexpr Bounds any() { return {0, 0}; }

// "a, b" becomes {"a", "b"}.
std::vector<std::string> split(const char* values);

}  // namespace fields

// Calls visit(field, member) for every field and its member of `spec`, in the list's order.
template <typename AnySpec, typename Visit>
void each_field(AnySpec& spec, const Visit& visit) {
  using namespace fields;
#define PYTHIA_RT_FIELD(type, name, bounds, what) \
  visit(Field{#name, what, type_of<type>(), (bounds).least, (bounds).most, {}}, spec.name);
#define PYTHIA_RT_WORDS(...) #__VA_ARGS__
#define PYTHIA_RT_CHOICE(type, name, what, ...)                                           \
  visit(Field{#name, what, FieldType::choice, 0, 0, split(PYTHIA_RT_WORDS(__VA_ARGS__))}, \
        spec.name);
#include "model/fields.inc"
#undef PYTHIA_RT_CHOICE
#undef PYTHIA_RT_WORDS
#undef PYTHIA_RT_FIELD
}

// Throws std::invalid_argument: the field's name, and what it is not.
[[noreturn]] void refuse(const Field& field);

// Throws std::invalid_argument with a few words for values that no model can have.
void validate(const Spec& spec);

// What a matrix product does on its way out for the MLP's function.
Epilogue epilogue_of(Activation activation);

}  // namespace pythia_rt
