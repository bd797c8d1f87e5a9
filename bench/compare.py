"""pythia_rt beside transformers: `python -m bench.compare FOLDER`.

Converts the Hugging Face checkpoint FOLDER, loads it in every runtime that is installed and lets
them take turns, so that a machine whose speed drifts drifts for all of them. Prints medians, the
spread, and the ratio to the first of transformers' rows; JSON lines with --json.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from bench.measure import Rate, seconds
from bench.runtimes import PythiaRt, Runtime, Transformers, UnavailableError


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--format", "formats", multiple=True, default=["q4", "q8"], show_default=True)
@click.option("--dtype", "dtypes", multiple=True, default=["bfloat16"], show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--prompt", default=512, help="Tokens of the prompt.", show_default=True)
@click.option("--new", default=32, help="Tokens decoded after 16.", show_default=True)
@click.option("--repetitions", default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="JSON lines instead of a table.")
def main(
    folder: Path,
    formats: tuple[str, ...],
    dtypes: tuple[str, ...],
    threads: int,
    prompt: int,
    new: int,
    repetitions: int,
    as_json: bool,
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        runtimes: list[Runtime] = []
        for dtype in dtypes:
            try:
                runtimes.append(Transformers(folder, threads, dtype))
            except UnavailableError as reason:
                click.echo(str(reason), err=True)
        runtimes += [_converted(folder, Path(temporary), form, threads) for form in formats]
        tokens = np.random.default_rng(0).integers(0, 1000, prompt, dtype=np.int32)
        rates: dict[str, dict[str, list[float]]] = {
            runtime.name: {"prefill": [], "decode": []} for runtime in runtimes
        }
        for turn in range(-1, repetitions):  # the first turn warms up and does not count
            for runtime in runtimes:
                prefill = prompt / seconds(_prefill(runtime, tokens))
                runtime.prefill(tokens[:16])
                decode = new / seconds(_decode(runtime, new))
                if turn >= 0:
                    rates[runtime.name]["prefill"].append(prefill)
                    rates[runtime.name]["decode"].append(decode)
    _report({name: {k: Rate.of(v) for k, v in r.items()} for name, r in rates.items()}, as_json)


def _converted(folder: Path, temporary: Path, form: str, threads: int) -> PythiaRt:
    from pythia_rt.convert.conversion import convert

    path = convert(folder, temporary / f"{form}.safetensors", format=form)
    return PythiaRt(path, threads)


def _prefill(
    runtime: Runtime, tokens: np.ndarray[tuple[int], np.dtype[np.int32]]
) -> Callable[[], None]:
    return lambda: runtime.prefill(tokens)


def _decode(runtime: Runtime, count: int) -> Callable[[], None]:
    return lambda: runtime.decode(count)


def _report(rates: dict[str, dict[str, Rate]], as_json: bool) -> None:
    base = next(iter(rates.values()))
    if not as_json:
        click.echo(
            "tokens/s, median (lowest to highest), and the ratio of medians to the first row"
        )
    for name, row in rates.items():
        if as_json:
            click.echo(json.dumps({"runtime": name} | {k: v.to_json() for k, v in row.items()}))
            continue
        cells = [
            f"{kind} {rate} {rate.median / base[kind].median:5.2f}x" for kind, rate in row.items()
        ]
        click.echo(f"{name:32} " + "   ".join(cells))


if __name__ == "__main__":
    main()
