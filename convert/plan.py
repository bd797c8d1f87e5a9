"""The converter's plan: which rows of which source tensors become which neutral tensor."""

from __future__ import annotations

from typing import NamedTuple

from .flatfile.spec import Spec


class Rows(NamedTuple):
    """Rows [start, stop) of one source tensor (entries, when it is a vector)."""

    tensor: str
    start: int
    stop: int


class Plan(NamedTuple):
    """What an architecture makes of a checkpoint.

    `linears` and `vectors` map every neutral name of the layout to its rows, in order; together
    the ranges have exactly as many rows as the neutral tensor. The two tensors of each pair in
    `equal` must hold the same bytes, or the checkpoint contradicts its config.
    """

    spec: Spec
    linears: dict[str, tuple[Rows, ...]]
    vectors: dict[str, tuple[Rows, ...]]
    equal: tuple[tuple[str, str], ...]
