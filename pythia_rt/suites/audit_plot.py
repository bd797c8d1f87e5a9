"""An audit as a picture: a square for each branch. Needs matplotlib, of the extra `plot`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pythia_rt.convert.files.atomic import write_file
from pythia_rt.convert.source.steps import step_of
from pythia_rt.evaluation.plot import check_plot
from pythia_rt.suites.audit import Audit
from pythia_rt.suites.audit_table import name_steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check_plot", "write_plot"]

_COLUMNS = 20
_PLAIN = "#e4e7ea"
_EXPECTED = "#a9c9e8"
# Of groups that should not be equal, told apart by a letter too.
_GROUPS = ("#d62728", "#e6850e", "#8c4fb8", "#2a9d8f", "#b5179e", "#7f5539")
_MIXED = "#ffe066"
_HATCH = "#d9a400"
_INK = "#333333"
_SHOWN = 6  # groups in the legend
_MAX_LABEL = 64


def write_plot(found: Audit, destination: str | Path) -> None:
    """Draw `found` into the PNG `destination`, which appears complete or not at all.

    One square for each step, in their order, and one for main: grey where no other holds the same
    weights, blue where that is by design, in a colour and with a letter for each group whose
    members should differ; mixtures in yellow and hatched; a dashed frame where nothing is. Raises
    what `pythia_rt.evaluation.plot.check_plot` raises.
    """
    path = check_plot(destination)
    content = io.BytesIO()
    _draw(found).savefig(content, format="png", dpi=150)
    write_file(path, content.getbuffer())


def _draw(found: Audit) -> Figure:
    from matplotlib.figure import Figure

    names = _in_order(found)
    rows = -(-len(names) // _COLUMNS)
    columns = min(_COLUMNS, max(10, len(names)))
    legend = _legend(found)
    height = 0.56 * rows + 0.17 * len(legend) + 0.7
    figure = Figure(figsize=(0.55 * columns + 0.2, height), layout="constrained")
    how = "values of tensors" if found.compared == "tensors" else "digests of files"
    figure.suptitle(f"{found.model}, by {how}, {found.date}", fontsize=10)
    axes = figure.add_subplot()
    axes.set_xlim(-0.1, columns + 0.1)
    axes.set_ylim(rows + 0.05, -0.1)
    axes.set_aspect("equal")
    axes.axis("off")
    colours, letters = _colours(found)
    mixed = {one.revision for one in found.mixtures}
    lacking = {one.revision for one in found.lacking}
    for place, name in enumerate(names):
        _square(
            axes,
            (place % columns, place // columns),
            name,
            _MIXED if name in mixed and name not in letters else colours.get(name, _PLAIN),
            letters.get(name, ""),
            mixed=name in mixed,
            lacking=name in lacking,
        )
    _add_legend(figure, legend)
    return figure


def _in_order(found: Audit) -> list[str]:
    """Return the names of all squares: of branches, and of what should be one."""
    names = {branch.revision for branch in found.branches} | {o.revision for o in found.lacking}
    return sorted(names, key=lambda name: (step_of(name) is None, step_of(name) or 0, name))


def _colours(found: Audit) -> tuple[dict[str, str], dict[str, str]]:
    """Return the colour of each revision that is not alone, and the letters of wrong ones."""
    colours, letters = {}, {}
    number = 0
    for group in found.identical:
        for revision in group.revisions:
            colours[revision] = _EXPECTED if group.by_design else _GROUPS[number % len(_GROUPS)]
            if not group.by_design:
                letters[revision] = _letter(number)
        number += not group.by_design
    return colours, letters


def _letter(number: int) -> str:
    return chr(ord("A") + number % 26)


def _square(
    axes: Axes,
    place: tuple[int, int],
    name: str,
    colour: str,
    letter: str,
    *,
    mixed: bool,
    lacking: bool,
) -> None:
    from matplotlib.patches import Rectangle

    x, y = place
    axes.add_patch(
        Rectangle(
            (x + 0.04, y + 0.04), 0.92, 0.92,
            facecolor="white" if lacking else colour,
            edgecolor="#888888" if lacking else _HATCH if mixed else "white",
            linestyle="--" if lacking else "-", linewidth=0.8, hatch="///" if mixed else None,
        )
    )  # fmt: skip
    ink = "white" if letter else _INK
    size: dict[str, Any] = {"fontsize": 6.5, "ha": "center", "va": "center"}
    axes.text(x + 0.5, y + (0.66 if letter else 0.5), _short(name), color=ink, **size)
    if letter:
        axes.text(x + 0.5, y + 0.3, letter, color=ink, weight="bold", **(size | {"fontsize": 8}))


def _short(name: str) -> str:
    step = step_of(name)
    if step is None:
        return name[:5]
    return f"{step // 1000}k" if step and step % 1000 == 0 else str(step)


def _legend(found: Audit) -> list[tuple[str, str, bool, bool]]:
    """Return (label, colour, mixed, lacking) of each line below the squares."""
    labels = [("no other branch holds the same weights", _PLAIN, False, False)]
    expected = [group for group in found.identical if group.by_design]
    for group in expected:
        labels.append((f"{_list(group.revisions)}: {group.by_design}", _EXPECTED, False, False))
    wrong = [group for group in found.identical if not group.by_design]
    for number, group in enumerate(wrong[:_SHOWN]):
        count = len(group.revisions)
        label = f"{_letter(number)}  {count} branches hold the same: {_list(group.revisions)}"
        labels.append((label, _GROUPS[number % len(_GROUPS)], False, False))
    if len(wrong) > _SHOWN:
        labels.append((f"{len(wrong) - _SHOWN} more such groups", "white", False, False))
    if found.mixtures:
        labels.append(("a part of its weights is another branch's", _MIXED, True, False))
    if found.lacking:
        labels.append(("missing, or without all of its weights", "white", False, True))
    return labels


def _list(revisions: Sequence[str]) -> str:
    text = name_steps(revisions)
    return text if len(text) <= _MAX_LABEL else text[:_MAX_LABEL].rpartition(", ")[0] + ", ..."


def _add_legend(figure: Figure, labels: Sequence[tuple[str, str, bool, bool]]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(
            facecolor=colour, label=label, hatch="///" if mixed else None, linewidth=0.8,
            edgecolor="#888888" if lacking else _HATCH if mixed else colour,
            linestyle="--" if lacking else "-",
        )
        for label, colour, mixed, lacking in labels
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="outside lower left", frameon=False, fontsize=7.5, handlelength=1.2
    )
