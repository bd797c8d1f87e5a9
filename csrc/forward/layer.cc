#include "forward/layer.h"

#include "forward/norm.h"

namespace pythia_rt {

namespace {

// Nobody looks: nothing of it is left in the layer.
struct Unwatched {
  static constexpr bool wants(Point) { return false; }
  static void at(Point, Rows) {}
  static void attended(const AttentionRows&) {}
};

// A probe that looks at one layer.
struct Watched {
  Probe& probe;
  Backend& backend;
  int64_t layer;

  bool wants(Point point) const { return probe.wants({point, layer}); }
  void at(Point point, Rows rows) const {
    if (wants(point)) probe.at({point, layer}, backend, rows);
  }
  void attended(const AttentionRows& rows) const {
    if (wants(Point::scores) || wants(Point::pattern)) probe.attended(layer, backend, rows);
  }
};

Rows columns(Rows rows, int64_t first, int64_t width) {
  return {rows.data + first, rows.count, width, rows.stride};
}

template <typename Watch>
void run_layer(const Spec& spec, const LayerWeights& weights, const Workspace& workspace,
               int64_t index, const Watch& watch) {
  Backend& backend = *workspace.stage.backend;
  const int64_t count = workspace.batch.rows();
  const Rows x = workspace.activations.x.first(count);
  const Rows attn_in = workspace.activations.attn_in.first(count);
  const Rows mlp_in = workspace.activations.mlp_in.first(count);
  const Rows qkv = workspace.activations.qkv.first(count);
  const Rows q = columns(qkv, 0, spec.query_size());
  const Rows k = columns(qkv, q.width, spec.key_value_size());
  const Rows v = columns(qkv, q.width + k.width, spec.key_value_size());
  const Rows attended = workspace.activations.attended.first(count);
  const Rows mlp = workspace.activations.mlp.first(count);
  // What a product adds to x, where that is watched or normed: attn_in has been used by then.
  const Rows added = attn_in;

  const HeadLayout heads{spec.n_heads, spec.n_kv_heads, spec.head_dim, spec.rotary_dim};
  const HeadLayout rotated{spec.n_heads, spec.n_kv_heads, spec.head_dim, 0};
  const Scoring scoring{spec.score_scale, spec.window(workspace.stage.first_layer + index),
                        workspace.score_bias, spec.max_positions};
  const Epilogue activation = epilogue_of(spec.activation);
  const bool activates_later = watch.wants(Point::mlp_pre);
  const Norm attn_norm{norm_parameters(spec, weights.attn_norm), attn_in};
  const Norm mlp_norm{norm_parameters(spec, weights.mlp_norm), mlp_in};
  // Of what is the block's to say.
  const auto project = [&](Rows in) { return Product{&weights.qkv, in, qkv, Epilogue::store}; };
  const Product attn_out{&weights.attn_out, attended, x, Epilogue::add};
  const bool gated = spec.has_gate();
  // Where the MLP's inside is seen before the activation, both halves of a gated one are there.
  const Rows mlp_pre = gated && activates_later ? workspace.activations.halves().first(count) : mlp;
  const auto mlp_up = [&](Rows in) {
    return Product{&weights.mlp_up, in, mlp_pre, activates_later ? Epilogue::store : activation,
                   gated && !activates_later};
  };
  const Product mlp_down{&weights.mlp_down, mlp, x, Epilogue::add};

  const auto norm_heads = [&](const NormWeights& norm, Rows rows, int64_t n, Point point) {
    switch (spec.qk_norm) {
      case QkNorm::none:
        return;
      case QkNorm::head:
        backend.norm_parts(norm_parameters(spec, norm), n, rows);
        break;
      case QkNorm::row:
        backend.norm_parts(norm_parameters(spec, norm), 1, rows);
        break;
    }
    watch.at(point, rows);
  };
  const auto attend = [&] {
    watch.at(Point::q, q);
    watch.at(Point::k, k);
    watch.at(Point::v, v);
    norm_heads(weights.q_norm, q, spec.n_heads, Point::norm_q);
    norm_heads(weights.k_norm, k, spec.n_kv_heads, Point::norm_k);
    backend.attention(heads, scoring, index, qkv, attended);
    if (watch.wants(Point::rot_q) || watch.wants(Point::rot_k)) {
      watch.at(Point::rot_q, q);
      watch.at(Point::rot_k, k);
      backend.attention(rotated, scoring, index, qkv, attended);  // anew, with what is there now
    }
    watch.attended({heads, scoring, q, k, v, attended});
    watch.at(Point::z, attended);
  };
  const auto activate = [&] {
    watch.at(Point::mlp_pre, mlp_pre);
    if (activates_later) {
      switch (spec.mlp) {
        case MlpKind::plain:
          backend.finish(activation, mlp, mlp);
          break;
        case MlpKind::gated:
          backend.finish_gated(activation, mlp_pre, mlp);
          break;
      }
    }
    watch.at(Point::mlp_post, mlp);
  };
  const auto add = [&](const Product& product, Point point) {
    if (!watch.wants(point)) {
      backend.linear(product);
      return;
    }
    backend.linear({product.matrix, product.in, added, Epilogue::store});
    watch.at(point, added);
    backend.finish(Epilogue::add, added, x);
  };
  const auto add_normed = [&](const Product& product, const Norm& norm, Point point) {
    backend.linear({product.matrix, product.in, added, Epilogue::store});
    backend.norm(norm.parameters, added, added);
    watch.at(point, added);
    backend.finish(Epilogue::add, added, x);
  };
  const auto add_both = [&] {
    if (watch.wants(Point::attn_out) || watch.wants(Point::mlp_out)) {
      add(attn_out, Point::attn_out);
      add(mlp_down, Point::mlp_out);
    } else {
      backend.linear_pair(attn_out, mlp_down);
    }
  };

  watch.at(Point::resid_pre, x);
  switch (spec.block) {
    case Block::parallel:
      // x + attention(norm1(x)) + mlp(norm2(x)): neither waits for the other.
      backend.norm_pair(x, attn_norm, mlp_norm);
      watch.at(Point::attn_norm, attn_in);
      watch.at(Point::mlp_norm, mlp_in);
      backend.linear_pair(project(attn_in), mlp_up(mlp_in));
      activate();
      attend();
      add_both();
      break;
    case Block::parallel_shared:
      // x + attention(norm(x)) + mlp(norm(x)).
      backend.norm(attn_norm.parameters, x, attn_in);
      watch.at(Point::attn_norm, attn_in);
      backend.linear_pair(project(attn_in), mlp_up(attn_in));
      activate();
      attend();
      add_both();
      break;
    case Block::sequential:
      // h = x + attention(norm1(x)), then h + mlp(norm2(h)).
      backend.norm(attn_norm.parameters, x, attn_in);
      watch.at(Point::attn_norm, attn_in);
      backend.linear(project(attn_in));
      attend();
      add(attn_out, Point::attn_out);
      watch.at(Point::resid_mid, x);
      backend.norm(mlp_norm.parameters, x, mlp_in);
      watch.at(Point::mlp_norm, mlp_in);
      backend.linear(mlp_up(mlp_in));
      activate();
      add(mlp_down, Point::mlp_out);
      break;
    case Block::post:
      // h = norm1(x + attention(x)), then norm2(h + mlp(h)).
      backend.linear(project(x));
      attend();
      add(attn_out, Point::attn_out);
      backend.norm(attn_norm.parameters, x, x);
      watch.at(Point::resid_mid, x);
      backend.linear(mlp_up(x));
      activate();
      add(mlp_down, Point::mlp_out);
      backend.norm(mlp_norm.parameters, x, x);
      break;
    case Block::output:
      // h = x + norm1(attention(x)), then h + norm2(mlp(h)).
      backend.linear(project(x));
      attend();
      add_normed(attn_out, attn_norm, Point::attn_out);
      watch.at(Point::resid_mid, x);
      backend.linear(mlp_up(x));
      activate();
      add_normed(mlp_down, mlp_norm, Point::mlp_out);
      break;
  }
  watch.at(Point::resid_post, x);
}

}  // namespace

void run_layer(const Spec& spec, const LayerWeights& weights, const Workspace& workspace,
               int64_t index, Probe* probe) {
  if (probe == nullptr) {
    run_layer(spec, weights, workspace, index, Unwatched{});
  } else {
    const int64_t layer = workspace.stage.first_layer + index;
    run_layer(spec, weights, workspace, index, Watched{*probe, *workspace.stage.backend, layer});
  }
}

}  // namespace pythia_rt
