"""What transformers' models have at our points, by hooks on their modules and their own outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Seen = dict[str, Floats]  # by our names, [n, ...]

# The end of a module's name in a layer -> the points that go in and come out.
MODULES: tuple[tuple[str, str | None, str | None], ...] = (
    (r".*\.q_proj", None, "q"),
    (r".*\.k_proj", None, "k"),
    (r".*\.v_proj", None, "v"),
    (r".*attn.*\.(o_proj|out_proj|dense)|.*attention\.dense|attn\.c_proj", "z", "attn_out"),
    (r".*\.q_norm", None, "norm_q"),
    (r".*\.k_norm", None, "norm_k"),
    (r"mlp\.gate_proj", None, "mlp_pre"),
    (r"mlp\.up_proj", None, "mlp_pre_linear"),
    (r"(mlp\.)?(dense_h_to_4h|fc_in|c_fc|fc1)", None, "mlp_pre"),
    (r"(mlp\.)?(down_proj|dense_4h_to_h|fc_out|mlp\.c_proj|fc2)", "mlp_post", "mlp_out"),
    (r"input_layernorm|ln_1", "attn_norm.input", "attn_norm"),
    (r"post_attention_layernorm|ln_2", "resid_mid", "mlp_norm"),
    (r"post_feedforward_layernorm", None, None),
)
NORMS_BEHIND = {"post_attention_layernorm": "attn_out", "post_feedforward_layernorm": "mlp_out"}
FUSED = r".*\.(query_key_value|c_attn)"  # queries, keys and values in one


@torch.inference_mode()
def seen(model: Any, tokens: NDArray[np.int32], spec: Mapping[str, Any]) -> Seen:
    """Return what is at the points of `model` that it shows."""
    found: Seen = {}
    handles = []

    def keep(name: str, value: Any) -> None:
        value = value[0] if isinstance(value, tuple) else value
        found[name] = value.reshape(len(tokens), -1).numpy().copy()

    def keep_fused(layer: str, value: Any) -> None:
        heads, dim = spec["n_heads"], spec["head_dim"]
        rows = value[0].numpy()
        if model.config.model_type == "gpt2":
            parts = np.split(rows, 3, axis=1)
        else:  # [heads, 3, head_dim]
            split = rows.reshape(len(tokens), heads, 3, dim)
            parts = [split[:, :, i].reshape(len(tokens), -1) for i in range(3)]
        for name, part in zip("qkv", parts, strict=True):
            found[f"layers.{layer}.{name}"] = part.copy()

    is_output = spec["block"] == "output"
    for path, module in model.named_modules():
        named = re.fullmatch(r".*?\.(?:layers|h)\.(\d+)\.(.+)", path)
        if not named:
            continue
        layer, rest = named.groups()
        if re.fullmatch(FUSED, rest) and model.config.model_type != "falcon":
            handles.append(
                module.register_forward_hook(
                    lambda _, given, out, layer=layer: keep_fused(layer, out)
                )
            )
        for pattern, before, after in MODULES:
            if not re.fullmatch(pattern, rest):
                continue
            if is_output:  # norms stand behind attention and the MLP
                before = before if before in ("z", "mlp_post") else None
                after = NORMS_BEHIND.get(rest, None if str(after).endswith("_out") else after)
            if before:
                name = f"layers.{layer}.{before}"
                handles.append(
                    module.register_forward_pre_hook(lambda _, given, name=name: keep(name, given))
                )
            if after:
                name = f"layers.{layer}.{after}"
                handles.append(
                    module.register_forward_hook(lambda _, given, out, name=name: keep(name, out))
                )
    try:
        ids = torch.from_numpy(tokens.astype(np.int64))[None]
        # Before 5 attentions came with eager attention alone; Falcon's is another (families.py).
        wants = model.config._attn_implementation == "eager"
        output = model(ids, output_hidden_states=True, output_attentions=wants)
    finally:
        for handle in handles:
            handle.remove()
    states = [state[0].numpy() for state in output.hidden_states]
    for layer, state in enumerate(states[:-1]):
        found[f"layers.{layer}.resid_pre"] = state
        if layer:
            found[f"layers.{layer - 1}.resid_post"] = state
    if states[-1].shape[1] == spec["hidden_size"]:  # else it is projected
        found["final_norm" if spec["final_norm"] else f"layers.{len(states) - 2}.resid_post"] = (
            states[-1]
        )
    if wants:
        for layer, pattern in enumerate(output.attentions):
            found[f"layers.{layer}.pattern"] = pattern[0].numpy()
    found["logits"] = output.logits[0].numpy()
    return found
