"""Writes a random checkpoint of any GPT-NeoX shape: python -m bench.make_checkpoint CONFIG DEST."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tqdm import tqdm

from bench import checkpoint


def main() -> None:
    """Parse the command line and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="a config.json of GPT-NeoX")
    parser.add_argument("destination", type=Path, help="the folder to make")
    parser.add_argument("--dtype", choices=checkpoint.DTYPES, default="float16")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.destination.exists():
        parser.error(f"{options.destination} exists: choose another folder, or delete it")
    config = json.loads(options.config.read_text())
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
                on_bytes=bar.update,
            )
    except OSError as error:
        raise SystemExit(f"error: {options.destination} was not written: {error}") from None


if __name__ == "__main__":
    main()
