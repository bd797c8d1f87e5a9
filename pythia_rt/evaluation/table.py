"""An evaluation as lines for a person."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from pythia_rt.evaluation.result import Estimate, Evaluation, Side


def lines(result: Evaluation) -> Iterator[str]:
    """The numbers of `result`, aligned."""
    compared = result.comparison
    yield f"file        {describe(result.model)}"
    if compared is not None:
        yield f"reference   {describe(compared.reference)}"
    yield f"text        {how_much(result)}"
    yield ""
    yield from _aligned(_rows(result))
    if compared is not None and compared.weight_errors is not None:
        yield ""
        yield "relative error of the weights, %"
        yield from _aligned(_weight_rows(compared.weight_errors))


def describe(side: Side) -> str:
    """One of the models, in a few words."""
    return f"{side.source} in {side.recipe} ({side.isa}, {side.kv_format} cache)"


def how_much(result: Evaluation) -> str:
    """How much text was measured, and how."""
    apart = "" if result.stride == result.window else f", {result.stride} apart"
    return (
        f"{result.tokens:,} tokens in windows of {result.window:,}{apart}, "
        f"{result.predicted:,} of them predicted"
    )


def weight_grid(errors: Mapping[str, float]) -> tuple[list[str], dict[str, dict[str, float]]]:
    """The kinds of matrix in a layer, and {name: {kind: error}} of layers and other matrices.

    A matrix outside the layers has its only error under the kind "".
    """
    rows: dict[str, dict[str, float]] = {}
    for name, error in errors.items():
        layer, _, kind = name.rpartition(".")
        rows.setdefault(layer or name, {})[kind if layer else ""] = error
    kinds = {kind: None for row in rows.values() for kind in row if kind}
    return list(kinds), rows


def _rows(result: Evaluation) -> Iterator[Sequence[str]]:
    compared = result.comparison
    yield "perplexity", _estimate(result.perplexity, 4), ""
    if compared is None:
        return
    yield "perplexity of the reference", _estimate(compared.perplexity, 4), ""
    yield "change of the perplexity", _estimate(compared.perplexity_change, 3, 100, sign="+"), "%"
    digits = _digits(compared.divergence.value)
    yield "KL divergence, mean", _estimate(compared.divergence, digits), "nats per token"
    yield "KL divergence, 99th percentile", f"{compared.divergence_p99:.{digits}f}", "nats"
    yield "KL divergence, largest", f"{compared.divergence_max:.{digits}f}", "nats"
    yield "same most likely token", f"{100 * compared.top1_agreement:.3f}", "% of the tokens"
    yield "largest difference of a logit", f"{compared.logit_difference:.4f}", ""
    if compared.relative_logit_difference is not None:
        relative = f"{100 * compared.relative_logit_difference:.3f}"
        yield "  by the reference's largest logit", relative, "%"


def _weight_rows(errors: Mapping[str, float]) -> Iterator[Sequence[str]]:
    kinds, rows = weight_grid(errors)
    heading = ["", *kinds]
    for name, row in rows.items():
        inside = "" not in row
        if inside and heading:
            yield heading
            heading = []
        yield [f"  {name}", *(_percent(row.get(kind)) for kind in (kinds if inside else [""]))]


def _digits(value: float) -> int:
    """How many decimals show four digits of `value`, at most 12."""
    return min(12, max(1, 3 - math.floor(math.log10(value)))) if value > 0 else 6


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.4f}"


def _estimate(value: Estimate, digits: int, scale: float = 1, sign: str = "") -> str:
    error = "" if value.error is None else f" ± {scale * value.error:.{digits}f}"
    return f"{scale * value.value:{sign}.{digits}f}{error}"


def _aligned(rows: Iterator[Sequence[str]]) -> Iterator[str]:
    """Columns side by side: words to the left, numbers with their decimal points in one line."""
    table = list(rows)
    columns = []
    for i in range(max(map(len, table))):
        cells = [row[i] if i < len(row) else "" for row in table]
        whole = max(map(_whole_digits, cells))
        cells = [
            cell.rjust(len(cell) + whole - _whole_digits(cell)) if _whole_digits(cell) else cell
            for cell in cells
        ]
        width = max(map(len, cells))
        columns.append([cell.ljust(width) for cell in cells])
    for row in zip(*columns, strict=True):
        yield "  ".join(row).rstrip()


def _whole_digits(cell: str) -> int:
    """Characters before the decimal point of a number; 0 for words."""
    number = cell.partition(" ")[0]
    return number.find(".") if number.strip("+-.0123456789") == "" and "." in number else 0
