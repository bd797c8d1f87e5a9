"""Every kernel beside the machine's own limits, in one run: python -m bench.kernels.

Needs the test extension that ./scripts/test builds.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from bench import measure, roofline, testing_extension, workloads
from bench.records import table
from bench.workloads import Case, Shape
from pythia_rt import _core

_MEGABYTE = 1 << 20
_NO_BF16 = (
    "bf16 multiply rate: skipped, no instruction set here multiplies bf16; its kernels widen to "
    "fp32"
)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--isas", nargs="+", choices=_core.isa_names(), default=_core.isa_names())
    parser.add_argument(
        "--formats", nargs="+", choices=_core.format_names(), default=_core.format_names()
    )
    parser.add_argument(
        "--threads", nargs="+", type=measure.positive, default=[_core.default_threads()],
        help="of the kernels; limits are measured with 1 to the most of these",
    )  # fmt: skip
    parser.add_argument(
        "--shape", nargs="+", type=_shape, default=[Shape(4096, 1024), Shape(8192, 2048)],
        help="ROWSxCOLUMNS of matrices; default: the MLPs of 410m and 1.4b",
    )  # fmt: skip
    parser.add_argument(
        "--rows", nargs="+", type=measure.positive, default=[1, 8, 512],
        help="rows of activations that a matrix is multiplied with",
    )  # fmt: skip
    parser.add_argument("--context", type=measure.positive, default=1024, help="cached positions")
    parser.add_argument(
        "--pages", choices=workloads.PAGES, default="file", help="where weights and caches lie"
    )
    parser.add_argument(
        "--memory", type=measure.positive, default=256, help="MiB to go through: more than caches"
    )
    parser.add_argument(
        "--seconds", type=measure.seconds, default=0.03, help="of each repetition, at least"
    )
    measure.add_options(parser, repetitions=5)
    options = parser.parse_args()
    try:
        native = testing_extension.load()
        _Benchmark(native, options).run()
    except (ImportError, ValueError) as error:
        parser.error(str(error))


def _shape(text: str) -> Shape:
    if not re.fullmatch(r"[1-9]\d{0,6}x[1-9]\d{0,6}", text):
        raise argparse.ArgumentTypeError(f"{text} is no shape: write ROWSxCOLUMNS, like 4096x1024")
    rows, columns = map(int, text.split("x"))
    return Shape(rows, columns)


class _Benchmark:
    """One run: buffers and threads are made once, limits are measured again with every group."""

    def __init__(self, native: ModuleType, options: argparse.Namespace):
        self.native = native
        self.options = options
        self.best_isa: str = _core.isa_names()[0]
        before = workloads.huge_pages()
        self.buffers = workloads.buffers(native, options.memory * _MEGABYTE)
        after = workloads.huge_pages()
        self.got_huge = before is None or after is None or after - before >= _MEGABYTE
        self.pools = {n: native.ThreadPool(n) for n in range(1, max(options.threads) + 1)}

    def run(self) -> None:
        self.limits()
        for shape in self.options.shape:
            for threads in self.options.threads:
                for isa in self.options.isas:
                    self.kernels(isa, shape, threads)

    def rate(self, work: workloads.Workload, threads: int) -> Callable[[], float]:
        return workloads.rate(work, self.pools[threads], self.options.seconds)

    def read(self, pages: str) -> workloads.Workload:
        work: workloads.Workload = self.native.read_workload(self.best_isa, self.buffers[pages])
        return work

    def multiply(self, isa: str, kind: str) -> workloads.Workload:
        work: workloads.Workload = self.native.multiply_workload(isa, kind)
        return work

    def multiplies(self) -> list[str]:
        """What the kernels' arithmetic is measured against."""
        return list(dict.fromkeys([*map(workloads.multiply_of, self.options.formats), "fp32"]))

    def limits(self) -> None:
        """Measure and print the limits by themselves, for every number of threads."""
        works: dict[tuple[str, str], workloads.Workload] = {}
        for pages in workloads.PAGES:
            works["read", pages] = self.read(pages)
        for isa in self.options.isas:
            for kind in self.multiplies():
                works[kind, isa] = self.multiply(isa, kind)
        calls = {
            (name, detail, threads): self.rate(work, threads)
            for (name, detail), work in works.items()
            for threads in self.pools
        }
        found = measure.alternate(calls, self.options.repetitions)
        cells = [("limit", "of", *(table.count(n, "thread") for n in self.pools), "unit")]
        for (name, detail), work in works.items():
            amount, unit = (work.bytes, "GB/s") if name == "read" else (work.operations, "Gop/s")
            rates = [found[name, detail, n].scaled(amount / 1e9) for n in self.pools]
            cells.append((name, detail, *map(str, rates), unit))
            for threads, rate in zip(self.pools, rates, strict=True):
                place = {"pages": detail} if name == "read" else {"isa": detail}
                facts = {"kind": "limit", "limit": name, **place, "threads": threads}
                self.append(facts, unit, rate)
        print("Limits of this machine (pages: small 4 KiB, huge 2 MiB, file: a mapped file)\n")
        print("\n".join(table.lines(cells)))
        if not self.got_huge:
            print("huge pages: the system gave none, the figures are those of small ones")
        print(_NO_BF16, end="\n\n", flush=True)

    def groups(self, isa: str, shape: Shape) -> Iterator[list[Case]]:
        """Cases that are measured in turn, together with the limits that they meet."""
        options = self.options
        pages = self.buffers[options.pages]
        for tokens in options.rows:
            yield list(workloads.linears(self.native, isa, pages, shape, options.formats, tokens))
        for tokens in sorted({1, min(workloads.ROWS_AT_ONCE, options.context)}):
            yield list(
                workloads.attentions(self.native, isa, pages, shape, options.context, tokens)
            )
        yield list(workloads.row_kernels(self.native, isa, shape))

    def kernels(self, isa: str, shape: Shape, threads: int) -> None:
        """Measure and print all kernels of one instruction set, for one shape."""
        cells: list[tuple[str, ...]] = [_HEADINGS]
        for cases in self.groups(isa, shape):
            limits = {
                "read": self.read(self.options.pages),
                **{kind: self.multiply(isa, kind) for kind in self.multiplies()},
            }
            needed = {case.multiply for case in cases}
            needed |= {"read" for case in cases if case.reads_memory}
            calls: dict[Any, Callable[[], float]] = {
                name: self.rate(limits[name], threads) for name in limits if name in needed
            }
            calls.update({case: self.rate(case.workload, threads) for case in cases})
            found = measure.alternate(calls, self.options.repetitions)
            for case in cases:
                read = limits["read"].bytes
                multiply = limits[case.multiply].operations
                roof = roofline.Roof(
                    found["read"].scaled(read).values if case.reads_memory else None,
                    found[case.multiply].scaled(multiply).values,
                )
                facts = {"isa": isa, "shape": str(shape), "threads": threads}
                cells.append(self.report(case, found[case], roof, facts))
        print(
            f"{isa}, {table.count(threads, 'thread')}, {shape}, {self.options.context} positions, "
            f"{self.options.pages} pages\n"
        )
        print("\n".join(table.lines(cells)), end="\n\n", flush=True)

    def report(
        self, case: Case, passes: measure.Rates, roof: roofline.Roof, facts: dict[str, Any]
    ) -> tuple[str, ...]:
        """Write one kernel's record; return its line of the table."""
        work = case.workload
        parts = roofline.of_limits(passes.values, work.bytes, work.operations, roof)
        gigabytes, operations = (passes.median * x / 1e9 for x in (work.bytes, work.operations))
        record = {
            "kind": "kernel",
            "kernel": case.kernel,
            "format": case.format,
            **facts,
            "tokens": case.tokens,
            "context": self.options.context if case.kernel == "attention" else None,
            "pages": self.options.pages if case.reads_memory else None,
            "bytes": work.bytes,
            "operations": work.operations,
            "multiply": case.multiply,
            "gigabytes_per_s": gigabytes,
            "gigaoperations_per_s": operations,
            "read_limit": _giga(roof.read),
            "multiply_limit": _giga(roof.multiply),
            "fraction": parts[2],
        }
        self.append(record, "s", measure.Rates([1 / value for value in passes.values]))
        return (
            case.kernel,
            case.format,
            str(case.tokens),
            f"{1e6 / passes.median:.1f}",
            f"{passes.spread:.0%}",
            f"{gigabytes:.1f}",
            _percent(parts[0]),
            f"{operations:.1f}",
            _percent(parts[1]),
            _percent(parts[2]),
        )

    def append(self, facts: dict[str, Any], unit: str, rates: measure.Rates) -> None:
        figures = {"unit": unit, "median": rates.median, "values": rates.values}
        measure.append_line(self.options.json, {"benchmark": "kernels", **facts, **figures})


_HEADINGS = ("kernel", "format", "rows", "µs", "±", "GB/s", "of read", "Gop/s", "of multiply",
             "of roof")  # fmt: skip


def _giga(values: Any) -> float | None:
    return None if values is None else statistics.median(values) / 1e9


def _percent(part: float | None) -> str:
    return "" if part is None else f"{part:.0%}"


if __name__ == "__main__":
    main()
