"""Which rewrites a model gets: those whose matrices lose something by their format."""

from __future__ import annotations

from collections.abc import Mapping

from ...flatfile.layout import Linear, is_quantised, linears, norms
from ...flatfile.spec import Spec
from .inside import Inside


def rewrites(spec: Spec, formats: Mapping[str, str]) -> frozenset[str]:
    """The rewrites that a model in these formats gets, `formats` by matrix name.

    "layers.{i}.attn_norm", "layers.{i}.mlp_norm", "final_norm": the norm's gain and bias, against
        the columns of what reads it.
    "layers.{i}.scores": the scale of the queries against the keys, unless a norm sets both.
    "layers.{i}.values": the scale of the values against the matrix that reads them, their bias.
    "layers.{i}.mlp": the scale of the MLP's inside, between its two matrices, where it can pass.

    What a choice of the spec rules out is not among them.
    """
    # Floats have an exponent each, so the scale of a channel costs nothing, and files in these
    # formats stay exact copies of their source.
    lossy = {name for name, form in formats.items() if is_quantised(form)}
    matrices = linears(spec)
    found = set()
    for norm in norms(spec):
        # Nothing undoes the columns of the residual stream: a tied head's, which is the embedding,
        # and those of what reads a norm whose output is the stream itself.
        readers = {matrix.name for matrix in matrices if matrix.reads == norm.name}
        if readers and readers <= lossy:
            found.add(norm.name)
    for matrix in matrices:
        if matrix.role == "qkv" and matrix.name in lossy and spec["qk_norm"] == "none":
            found.add(scores_of(matrix))
        if matrix.role == "attn_out" and {matrix.name, matrix.reads} <= lossy:
            found.add(values_of(matrix))
        passes = matrix.role == "mlp_down" and Inside(spec).passes_scales
        if passes and {matrix.name, matrix.reads} <= lossy:
            found.add(mlp_of(matrix))
    return frozenset(found)


def scores_of(matrix: Linear) -> str:
    """The name of the rewrite of queries and keys in the layer of `matrix`."""
    return f"layers.{matrix.layer}.scores"


def values_of(matrix: Linear) -> str:
    """The name of the rewrite of the values in the layer of `matrix`."""
    return f"layers.{matrix.layer}.values"


def mlp_of(matrix: Linear) -> str:
    """The name of the rewrite of the MLP's inside in the layer of `matrix`."""
    return f"layers.{matrix.layer}.mlp"
