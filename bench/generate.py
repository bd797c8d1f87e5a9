"""Speed, start and memory of a flat file: python -m bench.generate FILE."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench import fresh, kinds, limits, measure, trace
from bench.peers.ours import PythiaRt
from bench.records import measured
from pythia_rt import Model, _core
from pythia_rt.convert import FlatFile
from pythia_rt.info import describe

RATES = ("prefill", "decode", "long", "batch")
KINDS = (*RATES, "load", "first_token", "memory")
LOAD_WAYS = {"mapping": False, "copying": True}  # what `copy` is


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--kv-format", choices=_core.kv_format_names(), default="f16")
    measure.add_work_options(parser, KINDS)
    measure.add_options(parser, repetitions=5)
    parser.add_argument(
        "--trace", action="store_true", help="instead: where a token's time goes, by operation"
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="of --trace; default: 0")
    options = parser.parse_args()
    if options.trace and options.decode < 3:
        parser.error("--trace looks at no first or last token: --decode must be at least 3")
    work = kinds.Work.of(options)
    about = describe(options.file)
    for kind, needed in work.lengths().items():
        if kind in options.kinds and needed > (room := about["spec"]["max_positions"]):
            parser.error(f"{kind} needs {needed} tokens, the model has a context of {room}")

    machine = measured.machine()
    measure.append_line(options.json, machine)
    print(measured.headline(machine))
    common = {
        "benchmark": "generate",
        "model": options.file.name,
        "parameters": about["parameters"],
        "runner": f"pythia_rt {about['recipe']}",
        "threads": options.threads or _core.default_threads(),
        "isa": _core.selected_isa(),
    }
    print(f"{options.file.name}: {common['threads']} threads, KV cache {options.kv_format}")
    if options.trace:
        _trace(options, common["threads"])
        return
    # Before this process grows by a model: what it starts shares its memory.
    for kind, take in (("memory", _memory), ("first_token", _first_token), ("load", _load)):
        if kind in options.kinds:
            for record in take(options, about, common):
                _report(record, options.json)
    for record in _rates(options, work, common):
        _report(record, options.json)


def _trace(options: argparse.Namespace, threads: int) -> None:
    try:
        regions, traced, untraced = trace.measure(
            FlatFile(options.file),
            threads,
            options.kv_format,
            context=kinds.SHORT,
            count=options.decode,
            temperature=options.temperature,
            repetitions=options.repetitions,
        )
    except ImportError as error:
        raise SystemExit(f"error: {error}") from None
    for line in trace.lines(regions):
        print(f"  {line}")
    print(f"  a step of the core takes {traced:.1f} µs traced and {untraced:.1f} untraced")


def _rates(
    options: argparse.Namespace, work: kinds.Work, common: Mapping[str, Any]
) -> list[measured.Record]:
    chosen = [kind for kind in RATES if kind in options.kinds]
    if not chosen:
        return []
    threads = common["threads"]
    runner = PythiaRt(options.file, threads, work.room, options.kv_format)
    measurements: dict[str, Callable[[], float]] = {
        kind: found
        for kind in chosen
        if (found := work.measurement(kind, runner, runner.vocab_size)) is not None
    }
    rates, bandwidth = limits.alternate(measurements, options.repetitions, threads)
    return [
        measured.of_rates(
            rate,
            kind=kind,
            reads=runner.reads,
            bandwidth=bandwidth,
            **work.facts(kind),
            **common,
        )
        for kind, rate in rates.items()
    ]


def _load(
    options: argparse.Namespace, about: Mapping[str, Any], common: Mapping[str, Any]
) -> list[measured.Record]:
    """Seconds until a model is ready, the file being in the system's cache."""

    def loading(copy: bool) -> Callable[[], float]:
        def take() -> float:
            start = time.perf_counter()
            Model.load(options.file, threads=options.threads, copy=copy)
            return time.perf_counter() - start

        return take

    ways = {name: loading(copy) for name, copy in LOAD_WAYS.items()}
    return _seconds("load", measure.alternate(ways, options.repetitions), common, tokens=0)


def _first_token(
    options: argparse.Namespace, about: Mapping[str, Any], common: Mapping[str, Any]
) -> list[measured.Record]:
    """Seconds from the start of a process to the first token after a short prompt."""
    file, threads = options.file, common["threads"]
    starts = {"Python": lambda: fresh.first_token_seconds(file, threads, kinds.SHORT)}
    if about["tokenizer"]:
        starts["command line"] = lambda: fresh.first_text_seconds(file, threads)
    else:
        print("  the command line is skipped: the file has no tokenizer")
    times = measure.alternate(starts, options.repetitions)
    return _seconds("first_token", times, common, tokens=1)


def _memory(
    options: argparse.Namespace, about: Mapping[str, Any], common: Mapping[str, Any]
) -> list[measured.Record]:
    """MB resident at most; beside it what the file, its cache and Python alone account for."""
    length, count = options.prefill, options.decode
    peak, imported = fresh.peak_bytes(
        options.file, common["threads"], options.kv_format, length, count
    )
    sizes = {
        "": peak,
        "before loading": imported,
        "file": about["bytes"],
        "KV cache": fresh.kv_bytes(about["spec"], options.kv_format, length + count),
    }
    fields: dict[str, Any] = {"tokens": count, "context": length, "sequences": 1}
    return [
        _one(common, name, kind="memory", values=[size / 1e6], unit="MB", **fields)
        for name, size in sizes.items()
    ]


def _seconds(
    kind: str, times: Mapping[str, measure.Rates], common: Mapping[str, Any], *, tokens: int
) -> list[measured.Record]:
    context = kinds.SHORT if tokens else 0
    fields: dict[str, Any] = {"tokens": tokens, "context": context, "sequences": 1}
    return [
        _one(common, name, kind=kind, values=time.values, unit="s", **fields)
        for name, time in times.items()
    ]


def _one(
    common: Mapping[str, Any], way: str, *, values: list[float], **fields: Any
) -> measured.Record:
    runner = f"{common['runner']}, {way}" if way else common["runner"]
    median = measure.Rates(values).median
    return measured.Record(**{**common, "runner": runner}, median=median, values=values, **fields)


def _report(record: measured.Record, lines: Path | None) -> None:
    print(f"  {record.kind:12} {record.runner:32} {record.line()}", flush=True)
    measure.append_line(lines, record.to_dict())


if __name__ == "__main__":
    main()
