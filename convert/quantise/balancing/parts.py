"""Which parts of a model are balanced: those whose matrices lose something by their format."""

from __future__ import annotations

from collections.abc import Mapping

from ...flatfile.layout import is_quantised
from ...flatfile.spec import Spec


def rewrites(spec: Spec, formats: Mapping[str, str]) -> frozenset[str]:
    """The rewrites that a model in these formats gets, `formats` by matrix name.

    "layers.{i}.attn_norm": the norm's gain, its bias, and the scale of queries against keys.
    "layers.{i}.values": the scale of the values against the matrix that reads them, their bias.
    "layers.{i}.mlp_norm", "final_norm": the norm's gain and bias.
    """
    # Floats have an exponent each, so the scale of a channel costs nothing, and files in these
    # formats stay exact copies of their source.
    lossy = {name for name, form in formats.items() if is_quantised(form)}
    found = set()
    for layer in (f"layers.{i}" for i in range(spec["n_layers"])):
        if f"{layer}.qkv" in lossy:
            found.add(f"{layer}.attn_norm")
        if {f"{layer}.qkv", f"{layer}.attn_out"} <= lossy:
            found.add(f"{layer}.values")
        if f"{layer}.mlp_up" in lossy:
            found.add(f"{layer}.mlp_norm")
    # A tied head is the embedding, whose columns are the residual stream: nothing undoes theirs.
    if "head" in lossy:
        found.add("final_norm")
    return frozenset(found)
