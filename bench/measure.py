"""Repeats measurements in turn and prints them: a table for people, JSON lines for programs."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pythia_rt.convert.files.destination import find_place, named_file, unwritten

Name = TypeVar("Name")

# Seconds between runs: some runtimes' threads spin for 0.2 after their work. Tests, which look at
# no figure, do without.
PAUSE = float(os.environ.get("PYTHIA_RT_BENCH_PAUSE", "0.25"))


@dataclass(frozen=True)
class Rates:
    """Repetitions of one measurement."""

    values: list[float]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Half the distance between the extremes, as a part of the median."""
        return (max(self.values) - min(self.values)) / 2 / self.median

    def scaled(self, factor: float) -> Rates:
        """Return the same repetitions in another unit."""
        return Rates([factor * value for value in self.values])

    def __str__(self) -> str:
        return f"{self.median:9.1f} ± {self.spread:4.0%}"


def alternate(
    measurements: Mapping[Name, Callable[[], float]],
    repetitions: int,
    on_failure: Callable[[Name, Exception], None] | None = None,
) -> dict[Name, Rates]:
    """Run every measurement in turn, `repetitions` times after a warm-up, so that a change of the
    machine's speed meets all of them. Each returns its rate.

    One that raises in the warm-up is left out and told to `on_failure`, if that is given.
    """
    values: dict[Name, list[float]] = {}
    for name, measure in measurements.items():
        time.sleep(PAUSE)
        try:
            measure()
        except Exception as error:
            if on_failure is None:
                raise
            on_failure(name, error)
        else:
            values[name] = []
    for _ in range(repetitions):
        for name, rates in values.items():
            time.sleep(PAUSE)
            rates.append(measurements[name]())
    return {name: Rates(rates) for name, rates in values.items()}


def append_line(path: Path | None, record: Mapping[str, Any]) -> None:
    """Append a record to a file of JSON lines, if there is one: a whole line or none.

    Raises OSError with a sentence when the file cannot be written or is no regular one.
    """
    if path is None:
        return
    place = find_place(path, force=True)
    line = json.dumps(record).encode() + b"\n"
    with place.open("ab", buffering=0) as lines:
        before = lines.tell()
        try:
            while line:
                line = line[lines.write(line) :]
        except OSError as reason:
            lines.truncate(before)
            raise unwritten(path, reason) from None


def add_options(parser: argparse.ArgumentParser, *, repetitions: int) -> None:
    """Add the options that every benchmark has."""
    parser.add_argument("--repetitions", type=positive, default=repetitions)
    parser.add_argument("--json", type=lines_file, help="JSON lines to append the figures to")


def add_work_options(parser: argparse.ArgumentParser, kinds: Sequence[str]) -> None:
    """Add the options of benchmarks that generate: which kinds of work, and how much of each."""
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=list(kinds))
    parser.add_argument("--threads", type=positive, help="default: one per performance core")
    parser.add_argument("--prefill", type=positive, default=512, help="tokens of the prompt")
    parser.add_argument("--decode", type=positive, default=64, help="tokens to write")
    parser.add_argument("--context", type=positive, default=1536, help="tokens read before: long")
    parser.add_argument("--sequences", type=positive, default=8, help="written together: batch")


def add_texts_option(parser: argparse.ArgumentParser) -> None:
    """Add the option of benchmarks that score."""
    parser.add_argument(
        "--texts",
        type=positive,
        nargs=2,
        metavar=("COUNT", "LENGTH"),
        default=(64, 256),
        help="how many texts to score, of how many tokens",
    )


def lines_file(text: str) -> Path:
    """Return the file of an option to append JSON lines to, before anything is measured."""
    try:
        path = named_file(text)
        find_place(path, force=True)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def positive(text: str) -> int:
    """Return the number of an option that must be at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def seconds(text: str) -> float:
    """Return the seconds of an option, more than 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be more than 0")
    return value
