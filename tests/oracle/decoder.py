"""The decoder of any spec in double precision, with the points of csrc/forward/points.inc.

Slow and plain: one sequence, no cache. What each choice of the spec means is written down here once
more, from the papers and transformers, in the fewest words: THE referee for points of the space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from . import kernels

Doubles = NDArray[np.float64]
At = Callable[[str, int, Doubles], Doubles]  # the layer is -1 where a point is in none


def forward(
    spec: Mapping[str, Any],
    weights: Mapping[str, NDArray[Any]],
    tokens: NDArray[np.int32],
    at: At = lambda point, layer, values: values,
) -> Doubles:
    """Return the logits [tokens, vocabulary].

    `weights` has the entries of every norm and bias, without padding, and every table and matrix,
    by neutral name. `at(point, layer, values)` is called at every point and says what the rest goes
    on with.
    """
    return _Decoder(spec, weights, at).logits(tokens)


@final
class _Decoder:
    def __init__(
        self, spec: Mapping[str, Any], weights: Mapping[str, NDArray[Any]], at: At
    ) -> None:
        self.spec, self.at = spec, at
        self.weights = {name: values.astype(np.float64) for name, values in weights.items()}

    def logits(self, tokens: NDArray[np.int32]) -> Doubles:
        embed = self.weights["embed"]
        x = self.at("embed", -1, embed[tokens])
        if self.spec["learned_positions"]:
            x = x + self.at("pos_embed", -1, self.weights["embed_positions"][: len(tokens)])
        if self.spec["embed_norm"]:
            x = self.at("embed_norm", -1, self.norm("embed_norm", x))
        for layer in range(self.spec["n_layers"]):
            x = self.at("resid_post", layer, self.layer(layer, self.at("resid_pre", layer, x)))
        if self.spec["final_norm"]:
            x = self.at("final_norm", -1, self.norm("final_norm", x))
        tied: Doubles = x @ embed.T
        return tied if self.spec["tied_head"] else self.linear("head", x)

    def layer(self, i: int, x: Doubles) -> Doubles:
        def normed(name: str, x: Doubles) -> Doubles:
            return self.at(name, i, self.norm(f"layers.{i}.{name}", x))

        match self.spec["block"]:
            case "sequential":
                x = self.at("resid_mid", i, x + self.attention(i, normed("attn_norm", x)))
                return x + self.mlp(i, normed("mlp_norm", x))
            case "parallel":
                attn_out = self.attention(i, normed("attn_norm", x))
                return x + attn_out + self.mlp(i, normed("mlp_norm", x))
            case "parallel_shared":
                shared = normed("attn_norm", x)
                return x + self.attention(i, shared) + self.mlp(i, shared)
            case "post":
                x = self.norm(f"layers.{i}.attn_norm", x + self.attention(i, x))
                x = self.at("resid_mid", i, x)
                return self.norm(f"layers.{i}.mlp_norm", x + self.mlp(i, x))
            case "output":
                x = self.at("resid_mid", i, x + self.attention(i, x, "attn_norm"))
                return x + self.mlp(i, x, "mlp_norm")
            case block:
                raise ValueError(block)

    def attention(self, i: int, x: Doubles, norm: str = "") -> Doubles:
        """What attention adds to the stream, if there is a `norm` through that."""
        spec, at = self.spec, self.at
        dim, group = spec["head_dim"], spec["n_heads"] // spec["n_kv_heads"]
        ends = np.cumsum([spec["n_heads"] * dim, spec["n_kv_heads"] * dim])
        q, k, v = np.split(self.linear(f"layers.{i}.qkv", x), ends, axis=1)
        bias = self.weights.get(f"layers.{i}.qkv.bias")
        if bias is not None and spec["qk_norm"] == "none":
            # Where nothing rotates, it moves all scores of a query alike: the runtime omits it.
            constant = bias[ends[0] : ends[1]].reshape(-1, dim).copy()
            constant[:, : spec["rotary_dim"]] = 0
            k = k - constant.reshape(-1)
        q, k, v = at("q", i, q), at("k", i, k), at("v", i, v)
        if spec["qk_norm"] != "none":
            q = at("norm_q", i, self.norm_heads(f"layers.{i}.q_norm", q))
            k = at("norm_k", i, self.norm_heads(f"layers.{i}.k_norm", k))
        if spec["rotary_dim"] > 0:
            q, k = at("rot_q", i, self.rotate(q)), at("rot_k", i, self.rotate(k))
        heads = [slice(head * dim, (head + 1) * dim) for head in range(spec["n_heads"])]
        groups = [heads[head // group] for head in range(spec["n_heads"])]
        scores = np.stack(
            [q[:, own] @ k[:, shared].T for own, shared in zip(heads, groups, strict=True)]
        )  # [heads, queries, keys]
        scores *= spec["score_scale"]
        if spec["score_bias"]:  # by the key's position (Press et al. 2022, say)
            scores += self.weights["score_bias"][:, None, : len(x)]
        pattern = self.pattern(i, scores)
        mixed = [weights @ v[:, shared] for weights, shared in zip(pattern, groups, strict=True)]
        z = at("z", i, np.concatenate(mixed, axis=1))
        added = self.linear(f"layers.{i}.attn_out", z)
        return at("attn_out", i, self.norm(f"layers.{i}.{norm}", added) if norm else added)

    def pattern(self, i: int, scores: Doubles) -> Doubles:
        """Of all heads, causally, in the layer's window; nothing where nothing is seen."""
        window = self.spec["windows"][i] if self.spec["windows"] else 0
        scores = np.where(kernels.visible(*scores.shape[1:], window), scores, -np.inf)
        scores = self.at("scores", i, scores)
        largest = scores.max(axis=2, keepdims=True)
        weights = np.exp(scores - np.where(np.isinf(largest), 0, largest))
        sums = weights.sum(axis=2, keepdims=True)
        return self.at("pattern", i, weights / np.where(sums == 0, 1, sums))

    def rotate(self, x: Doubles) -> Doubles:
        dim, factor = self.spec["head_dim"], self.spec["rope_factor"]
        angles = np.outer(np.arange(len(x)), self.weights["rope_frequencies"])
        rows = [
            kernels.rotate(row.reshape(-1, dim), cosine, sine).reshape(-1)
            for row, cosine, sine in zip(
                x, factor * np.cos(angles), factor * np.sin(angles), strict=True
            )
        ]
        return np.stack(rows)

    def mlp(self, i: int, x: Doubles, norm: str = "") -> Doubles:
        """What the MLP adds to the stream, if there is a `norm` through that."""
        activation = kernels.EPILOGUES[self.spec["activation"]]
        pre = self.at("mlp_pre", i, self.linear(f"layers.{i}.mlp_up", x))
        match self.spec["mlp"]:
            case "plain":
                post = activation(pre)
            case "gated":  # act(gate x) * (up x), rows of 16 of each in turn (Shazeer 2020)
                tiles = pre.reshape(len(pre), -1, 2, 16)
                post = (activation(tiles[:, :, 0]) * tiles[:, :, 1]).reshape(len(pre), -1)
            case mlp:
                raise ValueError(mlp)
        post = self.at("mlp_post", i, post)
        added = self.linear(f"layers.{i}.mlp_down", post)
        return self.at("mlp_out", i, self.norm(f"layers.{i}.{norm}", added) if norm else added)

    def norm_heads(self, name: str, x: Doubles) -> Doubles:
        """Each head by itself (Qwen3), or all of them together (OLMo 2)."""
        dim = self.spec["head_dim"] if self.spec["qk_norm"] == "head" else x.shape[1]
        starts = range(0, x.shape[1], dim)
        parts = [self.norm(name, x[:, i : i + dim], slice(i, i + dim)) for i in starts]
        return np.concatenate(parts, axis=1)

    def norm(self, name: str, x: Doubles, part: slice = slice(None)) -> Doubles:
        weight = self.weights[f"{name}.weight"][part]
        match self.spec["norm"]:
            case "layer":
                bias = self.weights[f"{name}.bias"][part]
                return kernels.layer_norm(x, weight, bias, self.spec["norm_eps"])[0]
            case "rms":
                return kernels.rms_norm(x, weight, self.spec["norm_eps"])[0]
            case norm:
                raise ValueError(norm)

    def linear(self, name: str, x: Doubles) -> Doubles:
        y: Doubles = x @ self.weights[name].T
        return y + self.weights.get(f"{name}.bias", np.zeros(()))
