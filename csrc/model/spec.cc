#include "model/spec.h"

#include "base/error.h"

namespace pythia_rt {

namespace {

// Bounds every size so that products of two of them stay far inside 64 bits.
void check_size(const char* name, int64_t value, int64_t least = 1) {
  constexpr int64_t kMost = int64_t{1} << 28;
  if (value < least || value > kMost) {
    throw_invalid("the model's ", name, " must be between ", least, " and ", kMost, ", not ",
                  value);
  }
}

}  // namespace

void validate(const Spec& spec) {
  check_size("n_layers", spec.n_layers);
  check_size("n_heads", spec.n_heads);
  check_size("n_kv_heads", spec.n_kv_heads);
  check_size("head_dim", spec.head_dim);
  check_size("hidden_size", spec.hidden_size);
  check_size("mlp_size", spec.mlp_size);
  check_size("vocab_size", spec.vocab_size);
  check_size("n_tokens", spec.n_tokens);
  check_size("max_positions", spec.max_positions);
  check_size("rotary_dim", spec.rotary_dim, 0);
  check_size("query size", spec.qkv_size());
  if (spec.n_heads % spec.n_kv_heads != 0) {
    throw_invalid("the model's ", spec.n_heads, " heads cannot share ", spec.n_kv_heads,
                  " key and value heads evenly");
  }
  if (spec.n_tokens > spec.vocab_size) {
    throw_invalid("the tokenizer knows ", spec.n_tokens, " tokens, the model only ",
                  spec.vocab_size);
  }
  if (spec.rotary_dim > spec.head_dim || spec.rotary_dim % 2 != 0) {
    throw_invalid("the model's rotary_dim must be even and at most head_dim (", spec.head_dim,
                  "), not ", spec.rotary_dim);
  }
  if (!(spec.norm_epsilon > 0 && spec.norm_epsilon < 1)) {
    throw_invalid("the model's norm_eps must lie between 0 and 1, not ", spec.norm_epsilon);
  }
  if (spec.rotary_dim > 0 && !(spec.rope_base > 0 && spec.rope_base < 1e30)) {
    throw_invalid("the model's rope_base must be positive, not ", spec.rope_base);
  }
}

}  // namespace pythia_rt
