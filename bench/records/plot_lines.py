"""Lines of whole models' speed, a colour for each runtime and a dash for each of its formats.

Names stand at the lines' ends, so that nobody looks back and forth to a legend. Over the size of
the model, speeds are multiplied by it: then equal efforts are level, and what differs is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bench.records import recorded
from bench.records.recorded import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OURS = "#d1242f"
_COLORS = {
    "pythia_rt": _OURS,
    "llama.cpp": "#4c78a8",
    "openvino": "#4f9d5d",
    "ctranslate2": "#9067a7",
    "transformers": "#8a8a8a",
    "bitsandbytes": "#b07a3f",
}
_DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
NAME_HEIGHT = 9.5  # points from one name to the next


def draw(axes: Axes, found: Sequence[Record], x: str) -> Callable[[], None]:
    """Draw the medians of each runtime and format over the field `x`, on logarithmic speeds;
    over parameters, in billions of them a second.

    Returns what writes the names, to be called when the figure's layout stands.
    """
    names = list(dict.fromkeys(recorded.runner(record) for record in found))
    ends: list[tuple[str, float, float, str]] = []
    for name in sorted(names, key=lambda name: _family(name) == "pythia_rt"):
        line = sorted(
            (record for record in found if recorded.runner(record) == name),
            key=lambda record: float(record[x]),
        )
        units = [r["parameters"] / 1e9 if x == "parameters" else 1 for r in line]
        medians = [unit * r["median"] for unit, r in zip(units, line, strict=True)]
        lowest = [unit * min(r["values"]) for unit, r in zip(units, line, strict=True)]
        highest = [unit * max(r["values"]) for unit, r in zip(units, line, strict=True)]
        color, dash, width = _style(name, names)
        axes.errorbar(
            [record[x] for record in line],
            medians,
            [
                [max(0, m - low) for m, low in zip(medians, lowest, strict=True)],
                [max(0, high - m) for m, high in zip(medians, highest, strict=True)],
            ],
            color=color, ls=dash, lw=width, marker="o", ms=2.2 * width, elinewidth=0.8, capsize=2,
        )  # fmt: skip
        ends.append((name, float(line[-1][x]), medians[-1], color))
    axes.set_yscale("log")
    plain(axes)
    return lambda: _write_names(axes, ends)


def plain(axes: Axes) -> None:
    """The look of all plots: a faint grid behind the lines, no frame around them."""
    axes.grid(color="#e5e5e5", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def figure_of(
    figure: Figure, title: str, panels: Sequence[tuple[str, str, Sequence[Record]]]
) -> None:
    """Draw panels beside each other: the title and the field of the x axis of each, and its
    records."""
    from matplotlib.ticker import LogFormatter

    figure.suptitle(title, fontsize=12)
    figure.set_size_inches(4.9 * len(panels) + 0.6, 5.6)
    naming = []
    for index, (heading, x, found) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        naming.append(draw(axes, found, x))
        axes.set_title(heading, fontsize=11)
        values = sorted({record[x] for record in found})
        if x == "parameters":
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter("")
        axes.set_xticks(values, [_short(value) for value in values], fontsize=8)
        left, right = axes.get_xlim()
        axes.set_xlim(left, _beyond(left, right, is_log=x == "parameters"))
        axes.set_xlabel("parameters" if x == "parameters" else "tokens in the context")
        axes.yaxis.set_major_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
        if index == 0:
            unit = "billions of weights a second: tokens/s x parameters"
            axes.set_ylabel(unit if x == "parameters" else "tokens/s")
    figure.draw_without_rendering()
    for name in naming:
        name()


def _beyond(left: float, right: float, *, is_log: bool) -> float:
    """The axis's end with room for names."""
    share = 0.34
    if is_log:
        return float(right * (right / left) ** share)
    return right + share * (right - left)


def _write_names(axes: Axes, ends: Sequence[tuple[str, float, float, str]]) -> None:
    """Write each name right of its line's end, those at one x apart from each other."""
    points = 72 / axes.figure.dpi
    for x in {end[1] for end in ends}:
        column = sorted((end for end in ends if end[1] == x), key=lambda end: end[2])
        wanted = [float(axes.transData.transform((x, end[2]))[1]) * points for end in column]
        for (name, _, y, color), place, own in zip(column, apart(wanted), wanted, strict=True):
            axes.annotate(
                name, (x, y), (7, place - own), textcoords="offset points", color=color,
                fontsize=8, va="center", weight="bold" if color == _OURS else "normal",
                bbox={"boxstyle": "square,pad=0.05", "fc": "white", "ec": "none", "alpha": 0.7},
            )  # fmt: skip


def apart(wanted: Sequence[float]) -> list[float]:
    """Rising places as near to those wanted, also rising, as names of that height may be."""
    groups: list[list[float]] = []  # names that touch: their sum of first places, and their count
    for index, place in enumerate(wanted):
        groups.append([place - NAME_HEIGHT * index, 1])
        while len(groups) > 1 and groups[-1][0] / groups[-1][1] < groups[-2][0] / groups[-2][1]:
            total, count = groups.pop()
            groups[-1] = [groups[-1][0] + total, groups[-1][1] + count]
    firsts = [total / count for total, count in groups for _ in range(int(count))]
    return [first + NAME_HEIGHT * index for index, first in enumerate(firsts)]


def _family(name: str) -> str:
    return name.split(" ", 1)[0]


def _style(name: str, names: Sequence[str]) -> tuple[str, Any, float]:
    """Colour, dash and width of a runtime with a format."""
    family = _family(name)
    formats = [other for other in names if _family(other) == family]
    width = 2.2 if family == "pythia_rt" else 1.3
    return (
        _COLORS.get(family, "#222222"),
        _DASHES[formats.index(name) % len(_DASHES)],
        width,
    )


def _short(size: float) -> str:
    if size >= 1e9:
        return f"{size / 1e9:.3g} B"
    return f"{size / 1e6:.3g} M" if size >= 1e6 else f"{size:g}"
