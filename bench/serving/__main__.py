"""Many texts, reuse and drafts: python -m bench.serving FILE KIND ..."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bench import measure, shapes
from bench.records import measured
from bench.serving import drafts, interpreter, mixed, pace, reuse
from bench.serving.figures import Figure, Setting, Sizes
from pythia_rt import Model, _core

KINDS: Mapping[str, Callable[[Setting], Iterator[Figure]]] = {
    "mixed": mixed.mixed,
    "pace": pace.pace,
    "python": interpreter.python,
    "drafts": drafts.drafts,
    "prefix": reuse.prefix,
    "samples": reuse.samples,
    "pairs": reuse.pairs,
}


def main() -> None:
    """Measure each kind, print, and write lines."""
    options = _parse()
    facts = measured.machine()
    print(measured.headline(facts))
    measure.append_line(options.json, facts)
    threads = options.threads or _core.default_threads()
    model = Model.load(options.file, threads=threads)
    given = {each.name: getattr(options, each.name) for each in dataclasses.fields(Sizes)}
    setting = Setting(
        options.file,
        model,
        threads,
        options.repetitions,
        Sizes(**given | {"lengths": tuple(given["lengths"])}),
        options.checkpoint,
        tuple(options.peers),
        tuple(options.pair),
        options.format,
    )
    print(f"{options.file.name} on {model.runs_on}, {threads} threads; x: times the first's figure")
    for kind in options.kinds:
        _report(kind, list(KINDS[kind](setting)), setting, options.json)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    parser.add_argument("file", type=Path, help="a flat file; `drafts` makes its own")
    parser.add_argument("kinds", nargs="+", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--threads", type=measure.positive, help="default: one per core")
    parser.add_argument("--checkpoint", type=Path, help="mixed: that of the file, for peers")
    parser.add_argument(
        "--peers",
        nargs="*",
        default=["llama.cpp:Q4_0", "openvino:int4"],
        help="mixed: those of bench.compare that batch",
    )
    parser.add_argument("--pair", nargs=2, choices=shapes.PYTHIA, default=("1.4b", "70m"),
                        help="drafts: the shapes of a model and its draft")  # fmt: skip
    parser.add_argument("--format", choices=_core.format_names(), default="q4", help="of these")
    for each in dataclasses.fields(Sizes):
        count = 2 if each.name == "lengths" else None
        parser.add_argument(
            f"--{each.name}", type=measure.positive, nargs=count, default=each.default
        )
    measure.add_options(parser, repetitions=5)
    return parser.parse_args()


def _report(kind: str, figures: list[Figure], setting: Setting, lines: Path | None) -> None:
    """Print a kind's figures, those of the first one's unit beside it."""
    first = figures[0]
    for figure in figures:
        versus = ""
        if figure is not first and figure.unit == first.unit:
            versus = f"   x {figure.median / first.median:.3f}"
        print(f"  {kind:8} {figure.runner:40} {figure.line()}{versus}", flush=True)
        record = {
            "benchmark": "serving",
            "model": setting.path.stem if kind != "drafts" else setting.pair[0],
            "threads": setting.threads,
            "isa": setting.model._core.isa,
            "median": figure.median,
            **dataclasses.asdict(figure),
        }
        measure.append_line(lines, record)


if __name__ == "__main__":
    main()
