"""An evaluation as a picture. Needs matplotlib, which only the extra `plot` installs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pythia_rt.convert.files.atomic import write_file
from pythia_rt.convert.files.destination import find_place, named_file
from pythia_rt.evaluation.result import Comparison, Evaluation
from pythia_rt.evaluation.table import describe, how_much, weight_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BAR = "#4c78a8"
_MARKS = ("#d62728", "#e6850e")
# One colour and shape for each kind of matrix, told apart without colour too.
_KINDS = (("#444444", "o"), ("#4c78a8", "o"), ("#f58518", "s"), ("#54a24b", "^"), ("#b279a2", "D"))
_BARS_PER_DECADE = 12
_MEANS = 32  # along the window


def check_plot(destination: str | Path) -> Path:
    """Return the path, or raise, before minutes of work, when no picture could be written to it.

    ValueError for a name that does not end in .png or without matplotlib, OSError for what
    `find_place` refuses. An older picture is replaced.
    """
    path = named_file(destination)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path} is no name for a plot: choose one that ends in .png")
    find_place(path, force=True)
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise ValueError(
            "a plot needs matplotlib: install it with pip install 'pythia_rt[plot]'"
        ) from None
    return path


def write_plot(result: Evaluation, destination: str | Path) -> None:
    """Draw `result` into the PNG `destination`, which appears complete or not at all.

    With a reference: the divergences of the tokens, and the errors of the weights if they were
    compared. Without: the loss at each place of the window. Raises what `check_plot` raises.
    """
    path = check_plot(destination)
    content = io.BytesIO()
    _draw(result).savefig(content, format="png", dpi=150)
    write_file(path, content.getbuffer())


def _draw(result: Evaluation) -> Figure:
    from matplotlib.figure import Figure

    compared = result.comparison
    errors = compared.weight_errors if compared is not None else None
    rows = len(weight_grid(errors)[1]) if errors else 0
    size = (12 if errors else 7.5, max(4.8, 1.9 + 0.3 * rows))
    figure = Figure(figsize=size, layout="constrained")
    title = describe(result.model)
    if compared is not None:
        title += f"\nagainst {describe(compared.reference)}"
    figure.suptitle(f"{title}\n{how_much(result)}", fontsize=10)
    if compared is None:
        _draw_losses(figure.add_subplot(), result)
    elif errors:
        left, right = figure.subplots(1, 2)
        _draw_divergences(left, result, compared)
        _draw_weights(right, errors)
    else:
        _draw_divergences(figure.add_subplot(), result, compared)
    return figure


def _draw_divergences(axes: Axes, result: Evaluation, compared: Comparison) -> None:
    axes.set_title("KL divergence of each token")
    axes.set_xlabel("KL(reference || file), nats")
    axes.set_ylabel("tokens")
    values = result.token_divergences
    shown: NDArray[np.float64] = np.empty(0) if values is None else values[values > 0]
    if not shown.size:
        axes.text(0.5, 0.5, "0 at every token", ha="center", transform=axes.transAxes)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    # Divergences of nothing but rounding would stretch the axis over empty decades.
    low = max(float(shown.min()), float(np.percentile(shown, 0.1)) / 3)
    high = float(shown.max())
    first, last = np.floor(np.log10(low)), np.floor(np.log10(high)) + 1  # whole decades
    edges = np.logspace(first, last, int(last - first) * _BARS_PER_DECADE + 1)
    axes.hist(np.maximum(shown, low), bins=list(edges), color=_BAR, alpha=0.85)
    axes.set_xscale("log")
    axes.set_xlim(edges[0], edges[-1])
    axes.margins(y=0.2)  # room for the legend
    axes.xaxis.set_minor_formatter("")  # labels between the decades would touch each other
    axes.locator_params(axis="y", integer=True)
    mean, p99 = compared.divergence.value, compared.divergence_p99
    for place, color, style, name in (
        (mean, _MARKS[0], "-", "mean"),
        (p99, _MARKS[1], "--", "99th percentile"),
    ):
        if place > 0:
            axes.axvline(place, color=color, ls=style, lw=1.5, label=f"{name} {place:.3g}")
    axes.legend(loc="upper left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_weights(axes: Axes, errors: dict[str, float]) -> None:
    kinds, rows = weight_grid(errors)
    axes.set_title("Relative error of the weights")
    axes.set_xlabel("sqrt(Σ (w - w_ref)² / Σ w_ref²), %")
    for i, kind in enumerate(["", *kinds]):
        color, marker = _KINDS[i % len(_KINDS)]
        # The kinds of a layer one below the other: their errors are often nearly equal.
        offset = ((i - 1) / max(1, len(kinds) - 1) - 0.5) * 0.6 if kind else 0
        places = [
            (100 * row[kind], y + offset) for y, row in enumerate(rows.values()) if kind in row
        ]
        axes.plot(
            [x for x, _ in places], [y for _, y in places], marker, color=color, ms=4.5, mew=0,
            label=kind or "embedding, head",
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), list(rows), fontsize=8)
    for y in range(1, len(rows), 2):
        axes.axhspan(y - 0.5, y + 0.5, color="#f3f3f3", lw=0)
    axes.set_ylim(len(rows) - 0.4, -0.6)  # the first layer on top
    axes.set_xlim(0, (max(errors.values()) or 1e-2) * 105)
    axes.grid(axis="x", color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    axes.figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower right", ncols=5, frameon=False,
        fontsize=8, columnspacing=1, handletextpad=0.2,
    )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)


def _draw_losses(axes: Axes, result: Evaluation) -> None:
    losses = result.position_losses
    axes.set_title("Loss through the window")
    axes.set_xlabel("place in the window, tokens read before")
    axes.set_ylabel("mean negative log-likelihood, nats per token")
    if losses is not None:
        places = np.flatnonzero(np.isfinite(losses))
        axes.plot(places + 1, losses[places], ".", ms=3, color=_BAR, alpha=0.5, label="each place")
        groups = [g for g in np.array_split(places, _MEANS) if g.size]
        if len(places) >= 2 * _MEANS:
            axes.plot(
                [float(group.mean()) + 1 for group in groups],
                [float(losses[group].mean()) for group in groups],
                color=_MARKS[0], lw=1.5, label=f"mean of {len(groups[0])} places",
            )  # fmt: skip
    overall = float(np.log(result.perplexity.value))
    axes.axhline(overall, color="#444444", ls=":", lw=1.2, label=f"all tokens, {overall:.3f}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
