"""pythia_rt beside transformers, in turn, in one run: python -m bench.compare CHECKPOINT."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import measure, runners
from pythia_rt import _core
from pythia_rt.convert import convert

Load = Callable[[], runners.Runner]


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a folder in Hugging Face layout")
    parser.add_argument("--formats", nargs="+", choices=_core.format_names(), default=["q4", "q8"])
    parser.add_argument(
        "--peers", nargs="*", choices=("bfloat16", "float32"), default=["bfloat16", "float32"]
    )
    measure.add_text_options(parser)
    measure.add_options(parser, repetitions=5)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        loaders: dict[str, Load] = {}
        for form in options.formats:
            path = Path(folder) / form
            loaders[f"pythia_rt {form}"] = _ours(options.checkpoint, path, form, options.threads)
        for dtype in options.peers:
            name = f"transformers {dtype}"
            loaders[name] = _theirs(options.checkpoint, dtype, options.threads)
        loaded = _load(loaders)
        rates = _measure(loaded, options)
    _print(rates, options)


def _ours(checkpoint: Path, path: Path, form: str, threads: int | None) -> Load:
    return lambda: runners.PythiaRt(convert(checkpoint, path, format=form), threads)


def _theirs(checkpoint: Path, dtype: str, threads: int | None) -> Load:
    return lambda: runners.Transformers(checkpoint, threads, dtype)


def _load(loaders: dict[str, Load]) -> dict[str, runners.Runner]:
    loaded = {}
    for name, load in loaders.items():
        try:
            loaded[name] = load()
        except ImportError as error:
            print(f"{name} is skipped: {error}")
    return loaded


def _measure(
    loaded: dict[str, runners.Runner], options: argparse.Namespace
) -> dict[str, dict[str, measure.Rates]]:
    """Return {kind: {runner: rates}}."""
    vocab_size = min(runner.vocab_size for runner in loaded.values())
    prompt = runners.random_tokens(options.prefill, vocab_size)
    prefill = {name: runners.prefill_rate(runner, prompt) for name, runner in loaded.items()}
    # After a short prompt: the time to write is mostly that of reading the weights.
    decode = {
        name: runners.decode_rate(runner, prompt[:32], options.decode)
        for name, runner in loaded.items()
    }
    return {
        "prefill": measure.alternate(prefill, options.repetitions),
        "decode": measure.alternate(decode, options.repetitions),
    }


def _print(rates: dict[str, dict[str, measure.Rates]], options: argparse.Namespace) -> None:
    threads = options.threads or _core.default_threads()
    print(f"{options.checkpoint.name}, {threads} threads, {_core.selected_isa()}, tokens/s")
    for kind, table in rates.items():
        ours, *others = table
        for name, rate in table.items():
            ratio = table[ours].median / rate.median
            versus = f"   {ours} is {ratio:.2f} times as fast" if name in others else ""
            print(f"  {kind:8}{getattr(options, kind):4}  {name:22} {rate}{versus}")
            measure.append_line(
                options.json,
                {
                    "benchmark": "compare",
                    "checkpoint": options.checkpoint.name,
                    "runner": name,
                    "kind": kind,
                    "tokens": getattr(options, kind),
                    "threads": threads,
                    "isa": _core.selected_isa(),
                    "median": rate.median,
                    "values": rate.values,
                },
            )


if __name__ == "__main__":
    main()
