"""`pythia-rt checkpoints`: list the steps of a model's training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from pythia_rt.cli.command import Command
from pythia_rt.cli.source_options import DOWNLOADS


@click.command("checkpoints", cls=Command)
@click.argument("model")
@click.option(
    "--files/--no-files", default=True, show_default=True, help="Ask for files and sizes too."
)
@click.option("--offline", is_flag=True, help="List what is known without asking the hub.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help=DOWNLOADS)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON array.")
def list_checkpoints(
    model: str, files: bool, offline: bool, cache_dir: Path | None, as_json: bool
) -> None:
    """List the steps of MODEL with commits, sizes and weights.

    MODEL is a hub id whose branches are steps, or a folder with folders step0, step1 and so on.
    """
    from pythia_rt.suites.checkpoints import checkpoints

    found = checkpoints(model, offline=offline, files=files, cache_dir=cache_dir)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(c) for c in found], indent=2))
        return
    for checkpoint in found:
        size = "" if checkpoint.bytes is None else f"{checkpoint.bytes / 1e6:10.1f} MB"
        weights = [f for f in checkpoint.files or () if f.endswith((".safetensors", ".bin"))]
        columns = (f"{checkpoint.step:>7}", (checkpoint.commit or "")[:12], size, *weights)
        click.echo("  ".join(column for column in columns if column).rstrip())
