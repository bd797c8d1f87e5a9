"""Tokens per second of a flat file, reading and writing: python -m bench.generate FILE."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench import measure, runners
from pythia_rt import _core


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--kv-format", choices=_core.kv_format_names(), default="f16")
    measure.add_text_options(parser)
    measure.add_options(parser, repetitions=5)
    options = parser.parse_args()

    runner = runners.PythiaRt(options.file, options.threads, options.kv_format)
    model = runner.model
    prompt = runners.random_tokens(options.prefill, runner.vocab_size)
    rates = measure.alternate(
        {
            "prefill": runners.prefill_rate(runner, prompt),
            "decode": runners.decode_rate(runner, prompt, options.decode),
        },
        options.repetitions,
    )
    gigabytes = rates["decode"].median * model.bytes_per_token / 1e9
    print(
        f"{options.file.name}: {model.isa}, {model.threads} threads, KV cache {options.kv_format}"
    )
    print(f"  prefill of {options.prefill:5} tokens  {rates['prefill']} tokens/s")
    print(f"  decode of {options.decode:6} tokens  {rates['decode']} tokens/s", end="")
    print(f", {gigabytes:.1f} GB/s of weights")
    for kind, rate in rates.items():
        measure.append_line(
            options.json,
            {
                "benchmark": "generate",
                "file": options.file.name,
                "kind": kind,
                "tokens": getattr(options, kind),
                "threads": model.threads,
                "isa": model.isa,
                "kv_format": options.kv_format,
                "median": rate.median,
                "values": rate.values,
                "bytes_per_token": model.bytes_per_token,
            },
        )


if __name__ == "__main__":
    main()
