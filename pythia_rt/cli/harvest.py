"""`pythia-rt harvest`: write what is inside of a model while it reads texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pythia_rt.cli.command import Command
from pythia_rt.cli.model import ModelOptions, model_options


@click.command("harvest", cls=Command)
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--text",
    "texts",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    metavar="FILE",
    help='UTF-8 file to read; of .jsonl each line\'s "text"; may be repeated.',
)
@click.option(
    "--points",
    multiple=True,
    required=True,
    metavar="NAME",
    help="Point to write, as layers.3.resid_post or layers.*.z; may be repeated.",
)
@click.option(
    "--context", type=int, help="Tokens of a window.  [default: 512, or the model's context]"
)
@click.option("--dtype", default="f16", show_default=True, help="Type of the values: f16, f32.")
@click.option(
    "--shard-tokens", type=int, default=1 << 18, show_default=True, help="Tokens of a file at most."
)
@click.option("--prepend-bos", is_flag=True, help="Begin each window with the BOS token.")
@click.option(
    "--joined", is_flag=True, help="Cut windows of all texts together, end tokens between them."
)
@click.option("--max-tokens", type=int, help="Read no more than this of the texts.  [default: all]")
@model_options(quiet="no progress")
def harvest_activations(
    model: str,
    out: Path,
    texts: tuple[Path, ...],
    points: tuple[str, ...],
    options: ModelOptions,
    **given: Any,
) -> None:
    """Write values at points inside MODEL to the folder OUT.

    MODEL is a hub id, a folder or a flat file. For each token of the texts: NumPy's files in
    shards, the tokens, where documents begin, and meta.json. The same command goes on after an
    interruption.
    """
    from pythia_rt.harvest import harvest
    from pythia_rt.harvest.harvester import check_harvest

    check_harvest(texts, points, out, **given)  # before a model is fetched and converted
    loaded = options.load_model(model)
    made = harvest(loaded, texts, points, out, progress=not options.quiet, **given)
    if not options.quiet:
        click.echo(f"{len(made.tokens)} tokens of {', '.join(made.points)} in {out}", err=True)
