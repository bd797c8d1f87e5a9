#include "forward/layer.h"

#include "forward/norm.h"

namespace pythia_rt {

void run_layer(const Spec& spec, const LayerWeights& weights, const Stage& stage, int64_t index,
               InputObserver observe) {
  Backend& backend = *stage.part.backend;
  const int64_t count = stage.batch.rows();
  const Rows x = stage.activations.x.first(count);
  const Rows attn_in = stage.activations.attn_in.first(count);
  const Rows mlp_in = stage.activations.mlp_in.first(count);
  const Rows qkv = stage.activations.qkv.first(count);
  const Rows attended = stage.activations.attended.first(count);
  const Rows mlp = stage.activations.mlp.first(count);

  const HeadLayout heads{spec.n_heads, spec.n_kv_heads, spec.head_dim, spec.rotary_dim};
  const Epilogue activation =
      spec.activation == Activation::gelu ? Epilogue::gelu : Epilogue::gelu_tanh;
  const Norm attn_norm{norm_parameters(spec, weights.attn_norm), attn_in};
  const Norm mlp_norm{norm_parameters(spec, weights.mlp_norm), mlp_in};
  const Product project{&weights.qkv, attn_in, qkv, Epilogue::store};
  const Product attn_out{&weights.attn_out, attended, x, Epilogue::add};
  const Product mlp_up{&weights.mlp_up, mlp_in, mlp, activation};
  const Product mlp_down{&weights.mlp_down, mlp, x, Epilogue::add};

  const auto linear = [&](const Product& product) {
    observe(*product.matrix, product.in);
    backend.linear(product);
  };
  const auto linear_pair = [&](const Product& first, const Product& second) {
    observe(*first.matrix, first.in);
    observe(*second.matrix, second.in);
    backend.linear_pair(first, second);
  };

  if (spec.residual == Residual::parallel) {
    // x + attention(norm1(x)) + mlp(norm2(x)): neither waits for the other.
    backend.layer_norm_pair(x, attn_norm, mlp_norm);
    linear_pair(project, mlp_up);
    backend.attention(heads, index, qkv, attended);
    linear_pair(attn_out, mlp_down);
  } else {
    // h = x + attention(norm1(x)), then h + mlp(norm2(h)).
    backend.layer_norm(attn_norm.parameters, x, attn_in);
    linear(project);
    backend.attention(heads, index, qkv, attended);
    linear(attn_out);
    backend.layer_norm(mlp_norm.parameters, x, mlp_in);
    linear(mlp_up);
    linear(mlp_down);
  }
}

}  // namespace pythia_rt
