"""Records of benchmarks as Markdown tables, and as plots: python -m bench.report FILE.jsonl.

Without --output the tables are printed; with it, they and the plots go into a folder.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import measure
from bench.records import plots, recorded, table
from bench.records.recorded import Record
from pythia_rt.convert.files.atomic import write_file

_KERNEL_HEADINGS = ("kernel", "format", "rows", "µs", "GB/s", "read limit", "Gop/s",
                    "multiply limit", "of roof")  # fmt: skip
_GENERATION_HEADINGS = (
    "model", "parameters", "runner", "kind", "tokens", "context", "sequences", "threads", "isa",
    "median", "±", "unit", "read GB/s", "of read",
)  # fmt: skip
_DEVICE_HEADINGS = (
    "model", "parameters", "runner", "kind", "tokens", "context", "sequences",
    "median", "±", "unit", "read GB/s", "read limit", "of read",
    "Top/s", "multiply limit", "of multiply",
)  # fmt: skip


def main() -> None:
    """Parse the command line, read, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="JSON lines that a benchmark wrote with --json")
    parser.add_argument("--output", type=Path, help="a folder for report.md and the plots")
    options = parser.parse_args()
    try:
        found = recorded.read(options.file)
        if options.output is None:
            print("\n".join(markdown(found)))
            return
        plots.check()
        options.output.mkdir(parents=True, exist_ok=True)
        drawn = plots.write(found, options.output)
        pictures = [f"![{path.stem}]({path.name})" for path in drawn]
        text = "\n".join([*markdown(found), *pictures, ""])
        write_file(options.output / "report.md", text.encode())
    except (OSError, UnicodeDecodeError, ValueError, ImportError) as error:
        parser.error(str(error))
    for path in (options.output / "report.md", *drawn):
        print(path)


def markdown(found: Sequence[Record]) -> Iterator[str]:
    """Lines of all tables that there are records for."""
    kernels = recorded.select(found, benchmark="kernels")
    limits = recorded.select(kernels, kind="limit")
    if limits:
        yield from ("## Limits of the machine", "", *_limits(limits), "")
    timed = recorded.select(kernels, kind="kernel")
    for key in _unique(timed, "isa", "threads", "shape"):
        isa, threads, shape = key
        group = recorded.select(timed, isa=isa, threads=threads, shape=shape)
        yield from (f"## Kernels: {isa}, {table.count(threads, 'thread')}, {shape}", "")
        yield from (*table.lines([_KERNEL_HEADINGS, *map(_kernel, group)]), "")
    generated = recorded.generation(found)
    for (device,) in _unique(generated, "device"):
        group = recorded.select(generated, device=device)
        cells = (
            [_GENERATION_HEADINGS, *map(_generation, group)]
            if device is None
            else [_DEVICE_HEADINGS, *map(_on_device, group)]
        )
        yield from ("## Models" if device is None else f"## Models on {device}", "")
        yield from (*table.lines(cells), "")


def _unique(found: Sequence[Record], *names: str) -> list[tuple[Any, ...]]:
    return list(dict.fromkeys(tuple(record.get(name) for name in names) for record in found))


def _limits(limits: Sequence[Record]) -> Iterator[str]:
    threads = sorted({record["threads"] for record in limits})
    cells = [("limit", "of", *(table.count(n, "thread") for n in threads), "unit")]
    for name, pages, isa, unit in _unique(limits, "limit", "pages", "isa", "unit"):
        line = []
        for n in threads:
            same = recorded.select(limits, limit=name, pages=pages, isa=isa, threads=n)
            line.append(str(measure.Rates(same[0]["values"])).strip() if same else "")
        cells.append((name, f"{pages} pages" if pages else isa, *line, unit))
    return table.lines(cells)


def _kernel(record: Record) -> tuple[str, ...]:
    seconds = record["median"]
    return (
        record["kernel"],
        record["format"],
        str(record["tokens"]),
        f"{1e6 * seconds:.1f}",
        f"{record['bytes'] / seconds / 1e9:.1f}",
        _number(record.get("read_limit"), 1),
        f"{record['operations'] / seconds / 1e9:.1f}",
        _number(record.get("multiply_limit"), 1),
        _percent(record.get("fraction")),
    )


def _generation(record: Record) -> tuple[str, ...]:
    return (
        *_work(record, "tokens", "context", "sequences", "threads", "isa"),
        _number(record.get("gigabytes_per_s"), 1),
        _percent(record.get("fraction")),
    )


def _on_device(record: Record) -> tuple[str, ...]:
    multiply = _tera(record.get("multiply_limit"))
    return (
        *_work(record, "tokens", "context", "sequences"),
        _number(record.get("gigabytes_per_s"), 1),
        _number(record.get("read_limit"), 1),
        _percent(record.get("fraction")),
        _tera(record.get("gigaoperations_per_s")),
        f"{record['multiply']} {multiply}" if multiply else "",
        _percent(record.get("multiply_fraction")),
    )


def _work(record: Record, *names: str) -> tuple[str, ...]:
    """What was done, the fields of `names` among it, and how fast."""
    rates = measure.Rates(record["values"])
    return (
        recorded.model(record),
        _parameters(record.get("parameters")),
        recorded.runner(record),
        record["kind"],
        *(_text(record.get(name)) for name in names),
        f"{statistics.median(rates.values):.4g}",
        f"{rates.spread:.0%}" if rates.median else "",
        record.get("unit") or "tokens/s",
    )


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _tera(value: float | None) -> str:
    """Of a figure in Gop/s."""
    return "" if value is None else f"{value / 1e3:.1f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _parameters(value: int | None) -> str:
    return "" if value is None else f"{value / 1e6:.0f} M"


if __name__ == "__main__":
    main()
