"""GPT-NeoX in double precision, point by point as csrc/forward/points.inc names them.

Slow and plain: one sequence, no cache. `at(point, layer, values)` is called at every point and says
what the rest of the model goes on with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import kernels

Doubles = NDArray[np.float64]
At = Callable[[str, int, Doubles], Doubles]  # the layer is -1 where a point is in none


def forward(
    tensors: Mapping[str, Doubles], config: Mapping[str, Any], tokens: NDArray[np.int32], at: At
) -> Doubles:
    """Return the logits [tokens, vocabulary] of a checkpoint in Hugging Face's names.

    The keys' bias in dimensions that are not rotated is left out, as the runtime does.
    """
    heads = config["num_attention_heads"]
    head_dim = config["hidden_size"] // heads
    rotated = int(head_dim * config["rotary_pct"])
    gelu = {"gelu": kernels.gelu, "gelu_fast": kernels.gelu_tanh}[config["hidden_act"]]
    exponents = np.arange(0, rotated, 2) / max(rotated, 1)
    angles = np.arange(len(tokens))[:, None] / config["rotary_emb_base"] ** exponents

    def linear(name: str, x: Doubles) -> Doubles:
        return x @ tensors[f"{name}.weight"].T + tensors.get(f"{name}.bias", np.zeros(()))

    def norm(name: str, x: Doubles) -> Doubles:
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        return kernels.layer_norm(x, weight, bias, config["layer_norm_eps"])[0]

    def rotate(x: Doubles) -> Doubles:
        rows = [
            kernels.rotate(row.reshape(heads, head_dim), np.cos(angle), np.sin(angle)).reshape(-1)
            for row, angle in zip(x, angles, strict=True)
        ]
        return np.stack(rows)

    def attend(q: Doubles, k: Doubles, v: Doubles) -> Doubles:
        split = [x.reshape(len(x), heads, head_dim).transpose(1, 0, 2) for x in (q, k, v)]
        scores = split[0] @ split[1].transpose(0, 2, 1) / np.sqrt(head_dim)
        scores[:, ~np.tri(len(q), dtype=bool)] = -np.inf
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        mixed = weights / weights.sum(axis=2, keepdims=True) @ split[2]
        return mixed.transpose(1, 0, 2).reshape(q.shape)

    x = at("embed", -1, tensors["gpt_neox.embed_in.weight"][tokens])
    for layer in range(config["num_hidden_layers"]):
        name = f"gpt_neox.layers.{layer}"
        x = at("resid_pre", layer, x)
        normed = at("attn_norm", layer, norm(f"{name}.input_layernorm", x))
        qkv = linear(f"{name}.attention.query_key_value", normed)
        q, k, v = np.split(qkv.reshape(len(x), heads, 3, head_dim), 3, axis=2)
        bias = tensors.get(f"{name}.attention.query_key_value.bias")
        if bias is not None:
            k = k.copy()
            k[:, :, 0, rotated:] -= bias.reshape(heads, 3, head_dim)[:, 1, rotated:]
        q, k, v = (at(p, layer, a.reshape(len(x), -1)) for p, a in (("q", q), ("k", k), ("v", v)))
        q, k = at("rot_q", layer, rotate(q)), at("rot_k", layer, rotate(k))
        attended = at("attended", layer, attend(q, k, v))
        attn_out = at("attn_out", layer, linear(f"{name}.attention.dense", attended))
        mlp_in = x
        if not config["use_parallel_residual"]:
            mlp_in = x = at("resid_mid", layer, x + attn_out)
        normed = at("mlp_norm", layer, norm(f"{name}.post_attention_layernorm", mlp_in))
        pre = at("mlp_pre", layer, linear(f"{name}.mlp.dense_h_to_4h", normed))
        post = at("mlp_post", layer, gelu(pre))
        mlp_out = at("mlp_out", layer, linear(f"{name}.mlp.dense_4h_to_h", post))
        x = x + mlp_out if not config["use_parallel_residual"] else x + attn_out + mlp_out
        x = at("resid_post", layer, x)
    return linear("embed_out", at("final_norm", -1, norm("gpt_neox.final_layer_norm", x)))
