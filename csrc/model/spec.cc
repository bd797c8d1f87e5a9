#include "model/spec.h"

#include <string_view>
#include <utility>

#include "base/error.h"
#include "formats/matrix.h"

namespace pythia_rt {

std::vector<std::string> fields::split(const char* values) {
  std::vector<std::string> found;
  std::string word;
  for (const char c : std::string_view(values)) {
    if (c != ' ' && c != ',') {
      word += c;
    } else if (!word.empty()) {
      found.push_back(std::exchange(word, {}));
    }
  }
  if (!word.empty()) found.push_back(word);
  return found;
}

void refuse(const Field& field) {
  const auto least = static_cast<int64_t>(field.least), most = static_cast<int64_t>(field.most);
  switch (field.type) {
    case FieldType::text:
      throw_invalid(field.name, " is not a text");
    case FieldType::whole_number:
      throw_invalid(field.name, " is not a whole number from ", least, " to ", most);
    case FieldType::whole_numbers:
      throw_invalid(field.name, " is not a list of whole numbers from ", least, " to ", most);
    case FieldType::number:
      throw_invalid(field.name, " is not a number above ", field.least, " and below ", field.most);
    case FieldType::flag:
      throw_invalid(field.name, " is neither true nor false");
    case FieldType::choice:
      break;
  }
  std::string names;
  for (const std::string& choice : field.choices) names += (names.empty() ? "" : ", ") + choice;
  throw_invalid(field.name, " is none of ", names);
}

namespace {

template <typename Value>
bool is_within(const Field& field, const Value& value) {
  if constexpr (std::is_same_v<Value, std::vector<int64_t>>) {
    for (const int64_t one : value) {
      if (!is_within(field, one)) return false;
    }
  } else if constexpr (std::is_same_v<Value, int64_t>) {
    const auto number = static_cast<double>(value);
    return field.least <= number && number <= field.most;
  } else if constexpr (std::is_floating_point_v<Value>) {
    const auto number = static_cast<double>(value);
    return field.least < number && number < field.most;
  }
  return true;
}

// What the fields must be to each other.
void check_relations(const Spec& spec) {
  if (spec.n_heads % spec.n_kv_heads != 0) {
    throw_invalid("n_heads ", spec.n_heads, " is no multiple of n_kv_heads ", spec.n_kv_heads);
  }
  if (spec.rotary_dim % 2 != 0 || spec.rotary_dim > spec.head_dim) {
    throw_invalid("rotary_dim ", spec.rotary_dim, " is odd or above the head size ", spec.head_dim);
  }
  if (spec.rotary_dim == 0 && spec.rope_factor != 1) {
    throw_invalid("rope_factor is ", spec.rope_factor,
                  ", and nothing rotates where rotary_dim is 0");
  }
  if (!spec.windows.empty() && spec.windows.size() != static_cast<size_t>(spec.n_layers)) {
    throw_invalid("windows has ", spec.windows.size(), " entries, and there are ", spec.n_layers,
                  " layers");
  }
  if (spec.has_gate() && spec.mlp_size % kRowBlock != 0) {
    throw_invalid("mlp_size ", spec.mlp_size, " is no multiple of ", kRowBlock,
                  ", and the mlp is gated");
  }
  if (spec.tied_head && spec.head_bias) {
    throw_invalid("head_bias is set, and a tied head, the embedding, has none");
  }
  if (spec.n_tokens > spec.vocab_size) {
    throw_invalid("the tokenizer has ", spec.n_tokens, " ids and the model ", spec.vocab_size,
                  " rows");
  }
  if (spec.bos_id >= spec.vocab_size) {
    throw_invalid("bos_id ", spec.bos_id, " is no id of the vocabulary");
  }
  for (const int64_t id : spec.eos_ids) {
    if (id >= spec.vocab_size) throw_invalid("eos_ids has ", id, ", no id of the vocabulary");
  }
}

}  // namespace

void validate(const Spec& spec) {
  each_field(spec, [](const Field& field, const auto& value) {
    if (!is_within(field, value)) refuse(field);
  });
  check_relations(spec);
}

Epilogue epilogue_of(Activation activation) {
  switch (activation) {
#define PYTHIA_RT_ITS_EPILOGUE(name) \
  case Activation::name:             \
    return Epilogue::name;
    PYTHIA_RT_ACTIVATIONS(PYTHIA_RT_ITS_EPILOGUE)
#undef PYTHIA_RT_ITS_EPILOGUE
  }
  throw_invalid("there is no activation number ", static_cast<int>(activation));
}

}  // namespace pythia_rt
