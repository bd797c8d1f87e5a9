"""Speed of one flat file: `python -m bench.generate FILE`.

Prefill and greedy decoding, several times each; a JSON line with the medians on standard output.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np

from bench.measure import Rate, seconds
from bench.runtimes import PythiaRt


@click.command(help=__doc__)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--threads", default=0, help="0 takes every physical core.", show_default=True)
@click.option("--prompt", default=512, help="Tokens of the prompt.", show_default=True)
@click.option("--context", default=16, help="Tokens before the decoded ones.", show_default=True)
@click.option("--new", default=64, help="Tokens decoded.", show_default=True)
@click.option("--repetitions", default=5, show_default=True)
def main(file: Path, threads: int, prompt: int, context: int, new: int, repetitions: int) -> None:
    runtime = PythiaRt(file, threads)
    tokens = np.random.default_rng(0).integers(0, 1000, max(prompt, context), dtype=np.int32)
    prefill, decode = [], []
    runtime.prefill(tokens[:prompt])  # the first touch of the file's pages is not the speed
    for _ in range(repetitions):
        prefill.append(prompt / seconds(lambda: runtime.prefill(tokens[:prompt])))
        runtime.prefill(tokens[:context])
        decode.append(new / seconds(lambda: runtime.decode(new)))
    speed = Rate.of(decode)
    result = {
        "runtime": runtime.name,
        "file": file.name,
        "prefill_tokens_per_second": Rate.of(prefill).to_json(),
        "decode_tokens_per_second": speed.to_json(),
        "decode_weight_gigabytes_per_second": speed.median * runtime.bytes_per_token / 1e9,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
