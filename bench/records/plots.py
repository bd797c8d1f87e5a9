"""Records of benchmarks as pictures. Needs matplotlib, which only the extra `plot` installs."""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.records import plot_lines, recorded
from bench.records.recorded import Record
from bench.records.table import count
from pythia_rt.convert.files.atomic import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#9d755d", "#444444")
_MARKS = "osD^vPX*"
_STYLES = ("-", "--", ":", "-.")
_PLACE = ("isa", "device", "threads")  # on what
_KINDS = {
    "decode": "writing one text",
    "batch": "writing several at once",
    "prefill": "reading a prompt",
    "score": "scoring texts",
}


def check() -> None:
    """Raise ImportError with one sentence without matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise ImportError(
            "plots need matplotlib: install it with pip install 'pythia_rt[plot]'"
        ) from None


def write(found: Sequence[Record], folder: Path) -> list[Path]:
    """Draw every plot that there are records for; return their files."""
    paths = []
    for name, draw in _plots(found):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 5.5), layout="constrained")
        draw(figure)
        paths.append(folder / f"{name}.png")
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=120)
        write_file(paths[-1], content.getbuffer())
    return paths


def _plots(found: Sequence[Record]) -> Iterator[tuple[str, Callable[[Figure], None]]]:
    kernels = recorded.select(found, benchmark="kernels")
    timed = [r for r in recorded.select(kernels, kind="kernel") if r.get("pages")]
    keys = dict.fromkeys((r["isa"], r["threads"], r["shape"]) for r in timed)
    for isa, threads, shape in keys:
        points = recorded.select(timed, isa=isa, threads=threads, shape=shape)
        limits = recorded.select(kernels, kind="limit", threads=threads)
        yield (
            f"roofline-{isa}-{threads}-{shape}",
            _bind(
                _roofline, points, limits, f"{isa}, {count(threads, 'thread')}, matrices of {shape}"
            ),
        )
    generated = [r for r in recorded.generation(found) if r.get("unit", "tokens/s") == "tokens/s"]
    for place in dict.fromkeys(tuple(r.get(name) for name in _PLACE) for r in generated):
        here = [r for r in generated if tuple(r.get(name) for name in _PLACE) == place]
        facts = " ".join(str(fact) for fact in place if fact is not None)
        where = re.sub(r"[^\w.]+", "-", facts)
        sized = [r for r in here if r.get("parameters") and "cache" not in recorded.runner(r)]
        panels = [
            (heading, "parameters", _alike(recorded.select(sized, kind=kind)))
            for kind, heading in _KINDS.items()
            if recorded.select(sized, kind=kind)
        ]
        if panels:
            yield f"speed-{where}", _bind(plot_lines.figure_of, _title("Speed", place), panels)
        written = [r for r in here if r["kind"] in ("decode", "long") and r.get("context")]
        written.sort(key=lambda record: record.get("parameters") or 0)
        models = dict.fromkeys(recorded.model(r) for r in written)
        panels = [
            (model, "context", [r for r in written if recorded.model(r) == model])
            for model in models
            if len({r["context"] for r in written if recorded.model(r) == model}) > 1
        ]
        if panels:
            title = _title("Speed of writing after a long text", place)
            yield f"context-{where}", _bind(plot_lines.figure_of, title, panels)


def _alike(found: Sequence[Record]) -> list[Record]:
    """Those with the most frequent amount of work: how much is read at once, of how many."""
    amounts = [(r.get("tokens"), r.get("sequences")) for r in found]
    # How much is written only says how long it was measured.
    if found[0]["kind"] in ("decode", "batch"):
        amounts = [(None, sequences) for _, sequences in amounts]
    most = statistics.mode(amounts)
    return [r for r, amount in zip(found, amounts, strict=True) if amount == most]


def _title(what: str, place: Sequence[Any]) -> str:
    facts = dict(zip(_PLACE, place, strict=True))
    threads = count(facts["threads"], "thread")
    return ", ".join(
        [what, *(str(facts[name]) for name in ("isa", "device") if facts[name]), threads]
    )


def _bind(draw: Callable[..., None], *arguments: Any) -> Callable[[Figure], None]:
    return lambda figure: draw(figure, *arguments)


def _roofline(
    figure: Figure, points: Sequence[Record], limits: Sequence[Record], title: str
) -> None:
    axes = figure.add_subplot()
    axes.set_title(f"Kernels under the machine's limits: {title}", fontsize=11)
    intensities = [r["operations"] / r["bytes"] for r in points]
    low, high = min(intensities) / 2, max(intensities) * 2
    isa = points[0]["isa"]
    ceilings = {r["limit"]: r["median"] for r in limits if r.get("isa") == isa}
    ceilings.update(_among(points, "multiply", "multiply_limit"))
    for i, (name, rate) in enumerate(ceilings.items()):
        axes.plot([low, high], [rate, rate], color="#999999", lw=1, ls=_STYLES[i % 4])
        axes.annotate(
            f"{name} {rate:.0f} Gop/s", (low, rate), (4, 3), textcoords="offset points", fontsize=8
        )
    highest = max(ceilings.values(), default=None)
    reads = {r["pages"]: r["median"] for r in recorded.select(limits, limit="read")}
    reads.update(_among(points, "pages", "read_limit"))
    for i, (pages, rate) in enumerate(sorted(reads.items(), key=lambda item: -item[1])):
        end = high if highest is None else min(high, highest / rate)
        axes.plot(
            [low, end], [low * rate, end * rate], color="#222222", lw=1,
            ls=_STYLES[i % 4], label=f"read, {pages} pages {rate:.1f} GB/s",
        )  # fmt: skip
    formats = list(dict.fromkeys(r["format"] for r in points))
    kinds = list(dict.fromkeys((r["kernel"], r["tokens"]) for r in points))
    for record, x in zip(points, intensities, strict=True):
        kind = kinds.index((record["kernel"], record["tokens"]))
        axes.plot(
            x, record["operations"] / record["median"] / 1e9, _MARKS[kind % len(_MARKS)],
            color=_COLORS[formats.index(record["format"]) % len(_COLORS)], ms=7, mew=0, alpha=0.85,
        )  # fmt: skip
    for i, form in enumerate(formats):
        axes.plot([], [], "s", color=_COLORS[i % len(_COLORS)], ms=7, mew=0, label=form)
    for i, (kernel, tokens) in enumerate(kinds):
        label = f"{kernel}, {count(tokens, 'row')}"
        axes.plot([], [], _MARKS[i % len(_MARKS)], color="#777777", ms=7, mew=0, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_xlabel("operations for each byte of weights or cache")
    axes.set_ylabel("Gop/s, a multiplication and its addition are two")
    _finish(figure, axes)


def _among(points: Sequence[Record], place: str, limit: str) -> dict[str, float]:
    """Limits as they were measured among these kernels, better than before all of them."""
    known = [r for r in points if r.get(place) and r.get(limit)]
    return {
        name: statistics.median(r[limit] for r in known if r[place] == name)
        for name in dict.fromkeys(r[place] for r in known)
    }


def _finish(figure: Figure, axes: Axes) -> None:
    plot_lines.plain(axes)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
