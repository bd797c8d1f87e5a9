"""Curves of a sweep as a picture. Needs matplotlib, which only the extra `plot` installs."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pythia_rt.convert.files.atomic import write_file
from pythia_rt.evaluation.plot import check_plot
from pythia_rt.suites.known import is_wrong
from pythia_rt.sweeps.run import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_COLORS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#9d755d", "#72b7b2", "#eeca3b")
_STYLES = ("-", "--", ":", "-.")
_WRONG = "#d62728"
_SEED = re.compile(r"(.*?)-(?:data-|weight-)?seed\d+")
_COLUMNS = 3  # panels side by side
_LARGEST_MAP = 512  # layers or heads


class Curve(NamedTuple):
    """What is drawn as one line: models that differ in their seeds, in one format, asked alike."""

    family: str
    format: str
    asked: str


def write_plot(found: Sweep, destination: str | Path) -> None:
    """Draw a panel for each metric into the PNG `destination`: its values over the steps.

    Steps are on an axis that shows 0 and is logarithmic from 1 on. Models that differ in their
    seeds are one line, the median, with a ribbon between the quartiles; a single one has a ribbon
    of one standard error. Arrays of two dimensions, layers by heads, become maps over the steps:
    the largest of each layer's, and of seeds the median. Branches that are known to be wrong are
    marked. Raises ValueError for a sweep without steps, and what `check_plot` raises.
    """
    path = check_plot(destination)
    content = io.BytesIO()
    _draw(found).savefig(content, format="png", dpi=150)
    write_file(path, content.getbuffer())


def _draw(found: Sweep) -> Figure:
    from matplotlib.figure import Figure

    rows = [row for row in found.rows if row["step"] is not None and row["value"] is not None]
    maps = _maps(found)
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    if not metrics:
        raise ValueError("there is nothing to draw: the sweep has no numbers at steps")
    panels = len(metrics) + len(maps)
    columns = min(_COLUMNS, panels)
    lines = -(-panels // columns)
    figure = Figure(figsize=(max(6.4, 4.6 * columns), 3.6 * lines + 0.6), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for place, metric in zip(axes, metrics, strict=False):
        _draw_metric(place, metric, [row for row in rows if row["metric"] == metric])
    for place, ((model, name), steps) in zip(axes[len(metrics) :], maps.items(), strict=False):
        _draw_map(place, f"{name}, {model}", steps)
    for place in axes[panels:]:
        place.remove()
    handles = {
        label: handle
        for place in axes[: len(metrics)]
        for handle, label in zip(*place.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", frameon=False,
        ncols=min(4, len(handles)), fontsize=9,
    )  # fmt: skip
    return figure


def _draw_metric(axes: Axes, metric: str, rows: list[dict[str, Any]]) -> None:
    curves: dict[Curve, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        curves[Curve(family(row["model"]), row["format"], row["asked"])].append(row)
    families = list(dict.fromkeys(curve.family for curve in curves))
    kinds = list(dict.fromkeys(curve[1:] for curve in curves))
    for curve, of_curve in curves.items():
        color = _COLORS[families.index(curve.family) % len(_COLORS)]
        style = _STYLES[kinds.index(curve[1:]) % len(_STYLES)]
        steps, low, middle, high = _ribbon(of_curve)
        models = len({row["model"] for row in of_curve})
        label = curve.family + (f" ({models} seeds)" if models > 1 else "") + f", {curve.format}"
        if len({kind[1] for kind in kinds}) > 1:
            label += f", {curve.asked}"
        axes.plot(steps, middle, style, color=color, marker="o", ms=3, lw=1.4, label=label)
        axes.fill_between(steps, low, high, color=color, alpha=0.2, lw=0)
    wrong = [row for row in rows if is_wrong(row["model"], row["step"])]
    if wrong:
        axes.plot(
            [row["step"] for row in wrong], [row["value"] for row in wrong], "x", color=_WRONG,
            ms=7, mew=1.6, ls="none", label="known to be wrong",
        )  # fmt: skip
    axes.set_title(metric, fontsize=10)
    axes.set_xlabel("step")
    _step_axis(axes, sorted({row["step"] for row in rows}))
    values = [row["value"] for row in rows]
    if "perplexity" in metric and min(values) > 0:
        axes.set_yscale("log")
    axes.grid(color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _step_axis(axes: Axes, steps: list[int]) -> None:
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)
    axes.set_xlim(-0.3 if steps[0] == 0 else steps[0] * 0.8, max(1.3, steps[-1] * 1.4))
    powers = [10**k for k in range(7) if steps[0] <= 10**k <= steps[-1] * 1.3]
    ticks = [0, *powers] if steps[0] == 0 else powers or [steps[0], steps[-1]]
    axes.set_xticks(ticks, [f"{tick:,}".replace(",", " ") for tick in ticks])
    axes.set_xticks([], minor=True)


def _ribbon(rows: Iterable[Mapping[str, Any]]) -> tuple[NDArray[Any], ...]:
    """(steps, low, middle, high) of one curve, in order of steps."""
    by_step: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_step[row["step"]].append(row)
    found = []
    for step in sorted(by_step):
        values = [row["value"] for row in by_step[step]]
        if len(values) == 1:
            error = by_step[step][0]["stderr"] or 0.0
            found.append((step, values[0] - error, values[0], values[0] + error))
        else:
            found.append((step, *np.percentile(values, (25, 50, 75))))
    return tuple(np.array(column) for column in zip(*found, strict=True))


def _maps(found: Sweep) -> dict[tuple[str, str], dict[int, NDArray[Any]]]:
    """{(family, name of the array): {step: [layers]}}: the largest of each layer's heads, and of
    several seeds the median."""
    seeds: dict[tuple[str, str], dict[int, list[NDArray[Any]]]]
    seeds = defaultdict(lambda: defaultdict(list))
    files = {(r["model"], r["step"], r["arrays"]) for r in found.rows if r["step"] is not None}
    for model, step, file in sorted(files, key=str):
        if file is None:
            continue
        with np.load(found.folder / file) as arrays:
            for name in arrays.files:
                values = arrays[name]
                if values.ndim == 2 and max(values.shape) <= _LARGEST_MAP:
                    seeds[family(model), name][step].append(values.max(axis=1))
    return {
        key: {step: np.median(values, axis=0) for step, values in steps.items()}
        for key, steps in seeds.items()
        if len(steps) > 1
    }


def _draw_map(axes: Axes, title: str, steps: Mapping[int, NDArray[Any]]) -> None:
    order = sorted(steps)
    image = axes.imshow(
        np.stack([steps[step] for step in order], axis=1), aspect="auto", cmap="viridis"
    )
    layers = len(steps[order[0]])
    axes.set_title(f"{title}: largest of a layer's heads", fontsize=10)
    every = -(-len(order) // 10)
    axes.set_xticks(range(0, len(order), every), [str(step) for step in order[::every]], fontsize=8)
    axes.set_yticks(range(0, layers, max(1, layers // 12)))
    axes.set_xlabel("step")
    axes.set_ylabel("layer, the first on top")
    axes.figure.colorbar(image, ax=axes)


def family(model: str) -> str:
    """The name of a model without its seed."""
    match = _SEED.fullmatch(model)
    return match[1] if match else model
