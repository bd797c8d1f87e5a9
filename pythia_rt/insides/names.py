"""THE table of points: what each is called here and elsewhere, its shape, when it exists.

Other names are those of TransformerLens: of its HookedTransformer, which its bridge understands
too, and the bridge's own. Of those that the table lists first, one is what a predicate gets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pythia_rt.convert.flatfile.spec import Spec

Missing = Callable[["Spec"], str | None]

# What a text's tokens have at a point, p of them, in words for the documents.
SHAPES = {
    "hidden": "[p, hidden]",
    "queries": "[p, heads, head_dim]",
    "keys": "[p, kv_heads, head_dim]",
    "mlp": "[p, mlp]",
    "scores": "[heads, p, n]",
    "scale": "[p, 1]",
    "results": "[p, heads, hidden]",
}


class Place(NamedTuple):
    """A point and its layer, -1 for a point that is in none."""

    point: str
    layer: int


@dataclass(frozen=True)
class Point:
    """A line of the table. `why_not` says of a spec why its models lack the point, or None.

    `others` are names elsewhere, of a layer without their beginning "blocks.3."; `source` the point
    that it is computed of in numpy, where the runtime has no such value.
    """

    name: str
    in_layers: bool
    shape: str
    meaning: str
    exists: str
    why_not: Missing
    others: tuple[str, ...] = ()
    derived: bool = False


def _always(spec: Spec) -> str | None:
    return None


def _unless(is_there: Callable[[Spec], bool], why: str) -> Missing:
    return lambda spec: None if is_there(spec) else why


def _norms_first(spec: Spec) -> bool:
    return spec["block"] in ("sequential", "parallel", "parallel_shared")


def _attn_norm(spec: Spec) -> str | None:
    if _norms_first(spec):
        return None
    return "its layers norm what attention has computed, not what it reads"


def _mlp_norm(spec: Spec) -> str | None:
    if spec["block"] == "parallel_shared":
        return "attention and the MLP read one norm, which is attn_norm"
    return None if _norms_first(spec) else "its layers norm what the MLP has computed"


def _resid_mid(spec: Spec) -> str | None:
    if spec["block"] in ("parallel", "parallel_shared"):
        return (
            "in its parallel layers attention and the MLP both read resid_pre, so there is no "
            "stream between them"
        )
    return None


_rotary = _unless(lambda spec: spec["rotary_dim"] > 0, "it does not rotate queries and keys")
_normed = _unless(lambda spec: spec["qk_norm"] != "none", "it does not norm queries and keys")
_gated = _unless(lambda spec: spec["mlp"] == "gated", "its MLP is not gated, and mlp_pre is all")
_final = _unless(lambda spec: spec["final_norm"], "no norm stands before its head")


def _norm_points(norm: str, theirs: str, in_layers: bool, missing: Missing) -> list[Point]:
    """What goes into a norm, and what it is before gain and bias."""
    exists = {"attn_norm": "pre-norm layers", "mlp_norm": "pre-norm layers with two norms"}
    when = exists.get(norm, "models with a final norm")
    also = ("hook_mlp_in",) if norm == "mlp_norm" else ()
    return [
        Point(f"{norm}.input", in_layers, "hidden", "the stream that the norm reads", when, missing,
              (*also, f"{theirs}.hook_in"), derived=True),
        Point(f"{norm}.scale", in_layers, "scale",
              "what it divides by: the root of variance (or mean square) + eps", when, missing,
              (f"{theirs}.hook_scale",), derived=True),
        Point(f"{norm}.normalized", in_layers, "hidden",
              "(x - mean) / scale, without the mean in RMS norms, before gain and bias", when,
              missing, (f"{theirs}.hook_normalized",), derived=True),
    ]  # fmt: skip


POINTS: tuple[Point, ...] = (
    Point("embed", False, "hidden", "the tokens' rows of the embedding", "always", _always,
          ("hook_embed", "embed.hook_out")),
    Point("pos_embed", False, "hidden", "the positions' rows that are added to them",
          "learned positions", _unless(lambda spec: spec["learned_positions"],
          "it has no table of positions that is added to the embedding"),
          ("hook_pos_embed", "pos_embed.hook_out")),
    Point("embed_norm", False, "hidden", "the embedding, normed for the layers", "BLOOM",
          _unless(lambda spec: spec["embed_norm"], "its embedding is not normed")),
    Point("resid_pre", True, "hidden", "the residual stream that enters the layer", "always",
          _always, ("hook_resid_pre", "hook_in")),
    *_norm_points("attn_norm", "ln1", True, _attn_norm),
    Point("attn_norm", True, "hidden", "normed, with gain and bias: what attention reads",
          "pre-norm layers", _attn_norm, ("ln1.hook_out", "attn.hook_in")),
    Point("q", True, "queries", "queries with their bias, before norms and rotation", "always",
          _always, ("attn.hook_q", "attn.q.hook_out")),
    Point("k", True, "keys", "keys, likewise", "always", _always,
          ("attn.hook_k", "attn.k.hook_out")),
    Point("v", True, "keys", "values with their bias", "always", _always,
          ("attn.hook_v", "attn.v.hook_out")),
    Point("norm_q", True, "queries", "queries, normed", "models that norm them", _normed),
    Point("norm_k", True, "keys", "keys, normed", "models that norm them", _normed),
    Point("rot_q", True, "queries", "queries, rotated", "rotary models", _rotary,
          ("attn.hook_rot_q",)),
    Point("rot_k", True, "keys", "keys, rotated, as they are cached", "rotary models", _rotary,
          ("attn.hook_rot_k",)),
    Point("scores", True, "scores",
          "scaled products of queries and the text's n keys, -inf where a key is not seen",
          "always", _always, ("attn.hook_attn_scores",)),
    Point("pattern", True, "scores", "their softmax over the keys", "always", _always,
          ("attn.hook_pattern",)),
    Point("z", True, "queries", "values mixed by the pattern", "always", _always,
          ("attn.hook_z", "attn.o.hook_in")),
    Point("result", True, "results", "what each head adds: z times its part of the output matrix, "
          "without the bias", "layers that add it as it is",
          _unless(_norms_first, "its layers norm what the heads add together"),
          ("attn.hook_result",), derived=True),
    Point("attn_out", True, "hidden", "what attention adds to the stream", "always", _always,
          ("hook_attn_out", "attn.hook_out", "attn.o.hook_out")),
    Point("resid_mid", True, "hidden", "the stream between attention and the MLP",
          "layers that are not parallel", _resid_mid, ("hook_resid_mid",)),
    *_norm_points("mlp_norm", "ln2", True, _mlp_norm),
    Point("mlp_norm", True, "hidden", "normed, with gain and bias: what the MLP reads",
          "pre-norm layers with two norms", _mlp_norm, ("ln2.hook_out", "mlp.hook_in")),
    Point("mlp_pre", True, "mlp", "before the activation; in a gated MLP the gate", "always",
          _always, ("mlp.hook_pre", "mlp.in.hook_out")),
    Point("mlp_pre_linear", True, "mlp", "what the activated gate is multiplied by", "gated MLPs",
          _gated, ("mlp.hook_pre_linear",)),
    Point("mlp_post", True, "mlp", "what the MLP's output matrix reads", "always", _always,
          ("mlp.hook_post", "mlp.out.hook_in")),
    Point("mlp_out", True, "hidden", "what the MLP adds to the stream", "always", _always,
          ("hook_mlp_out", "mlp.hook_out", "mlp.out.hook_out")),
    Point("resid_post", True, "hidden", "the stream that leaves the layer", "always", _always,
          ("hook_resid_post", "hook_out")),
    *_norm_points("final_norm", "ln_final", False, _final),
    Point("final_norm", False, "hidden", "normed, with gain and bias: what the head reads",
          "models with a final norm", _final, ("ln_final.hook_out", "unembed.hook_in")),
)  # fmt: skip
BY_NAME = {point.name: point for point in POINTS}

# Names of theirs that no point has, and why.
NO_POINTS = {
    "hook_attn_in": "it would be a copy of resid_pre for each head: capture resid_pre",
    "hook_q_input": "it would be a copy of resid_pre for each head: capture resid_pre",
    "hook_k_input": "it would be a copy of resid_pre for each head: capture resid_pre",
    "hook_v_input": "it would be a copy of resid_pre for each head: capture resid_pre",
    "hook_tokens": "the tokens are Run.tokens",
    "unembed.hook_out": "the logits are Run.logits",
}

# The short names of TransformerLens (its get_act_name), with the part of a layer they may name.
SHORT = {
    "attn": "pattern",
    "attn_logits": "scores",
    "attn_scores": "scores",
    "key": "k",
    "query": "q",
    "value": "v",
    "pre": "mlp_pre",
    "pre_linear": "mlp_pre_linear",
    "post": "mlp_post",
    "scale": "final_norm.scale",
    "normalized": "final_norm.normalized",
}
SHORT_OF_PART = {
    ("scale", "ln1"): "attn_norm.scale",
    ("scale", "ln2"): "mlp_norm.scale",
    ("normalized", "ln1"): "attn_norm.normalized",
    ("normalized", "ln2"): "mlp_norm.normalized",
}
PARTS_OF_LAYER = ("a", "attn", "m", "mlp", "b", "block")


def canonical(place: Place) -> str:
    """Our name: "layers.3.resid_post", or "embed"."""
    return f"layers.{place.layer}.{place.point}" if place.layer >= 0 else place.point


def theirs(point: Point, layer: int) -> list[str]:
    """The other names of a point in a layer, the first one first."""
    begin = f"blocks.{layer}." if point.in_layers else ""
    return [begin + name for name in point.others]


def table() -> str:
    """The points as a table of Markdown, for the documents."""
    lines = ["| point | shape | what it is | exists in | TransformerLens |", "|---" * 5 + "|"]
    for point in POINTS:
        name = f"layers.N.{point.name}" if point.in_layers else point.name
        begin = "blocks.N." if point.in_layers else ""
        others = ", ".join(f"`{begin}{other}`" for other in point.others)
        cells = f"`{name}`", SHAPES[point.shape], point.meaning, point.exists, others
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
