"""Writes a random checkpoint of a shape: python -m bench.make_checkpoint CONFIG DEST.

CONFIG is a config.json of GPT-NeoX or LLaMA, or the name of a Pythia model's shape, such as 410m.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tqdm import tqdm

from bench import checkpoint, measure, shapes

KINDS = "GPT-NeoX or LLaMA"


def main() -> None:
    """Parse the command line and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = ", ".join(shapes.PYTHIA)
    parser.add_argument(
        "config", type=_config, help=f"a config.json of GPT-NeoX or LLaMA, or: {names}"
    )
    parser.add_argument("destination", type=Path, help="the folder to make")
    parser.add_argument("--dtype", choices=checkpoint.DTYPES, default="float16")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=measure.positive, help="default: one per processor")
    options = parser.parse_args()
    if options.destination.exists():
        parser.error(f"{options.destination} exists: choose another folder, or delete it")
    config = options.config
    sizes = [tensor.size for tensor in checkpoint.tensors(config)]
    total = sum(sizes) * checkpoint.DTYPES[options.dtype][1]
    if not 1 <= options.shards <= len(sizes):
        parser.error(f"--shards must be between 1 and the {len(sizes)} tensors")
    try:
        with tqdm(total=total, unit="B", unit_scale=True, desc=options.destination.name) as bar:
            checkpoint.write(
                options.destination,
                config,
                dtype=options.dtype,
                shards=options.shards,
                seed=options.seed,
                threads=options.threads,
                on_bytes=bar.update,
            )
    except OSError as error:
        raise SystemExit(f"error: {options.destination} was not written: {error}") from None


def _config(text: str) -> checkpoint.Config:
    if text in shapes.PYTHIA and not Path(text).is_file():
        return shapes.config(text)
    try:
        found = dict(json.loads(Path(text).read_text()))
        checkpoint.tensors(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise argparse.ArgumentTypeError(
            f"{text} is no config.json of GPT-NeoX or LLaMA: {error}"
        ) from None
    return found


if __name__ == "__main__":
    main()
