"""`pythia-rt evaluate`: measure how good a flat file is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from pythia_rt.cli.command import Command
from pythia_rt.cli.loading_options import loading_options
from pythia_rt.cli.prompt import parse_ids
from pythia_rt.cli.source_options import DOWNLOADS

_OF_LOCAL = ("step", "reference_kv_format")  # what a local reference may have, too


@click.command("evaluate", cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--text", type=click.Path(path_type=Path), required=True, help="UTF-8 file to measure on."
)
@click.option("--token-ids", is_flag=True, help="The file holds token ids instead of text.")
@click.option("--reference", help="Flat file, folder or hub id to compare with.")
@click.option("--revision", help="Branch, tag or commit of a hub reference.  [default: main]")
@click.option(
    "--step", type=int, help="Step of a reference's training: the revision or folder step{N}."
)
@click.option("--window", type=int, help="Tokens of a window.  [default: 512, or the context]")
@click.option("--stride", type=int, help="Tokens from window to window.  [default: the window]")
@click.option("--max-tokens", type=int, help="Read no more than this of the text.  [default: all]")
@click.option(
    "--weights/--no-weights", default=True, show_default=True, help="Compare them too, or not."
)
@loading_options("threads", "kv_format")
@click.option("--reference-kv-format", help="The same for the reference.  [default: f32]")
@click.option("--cache-dir", type=click.Path(path_type=Path), help=DOWNLOADS)
@click.option("--plot", type=click.Path(), help="Draw a PNG too (needs matplotlib).")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def evaluate_file(
    file: Path,
    text: Path,
    token_ids: bool,
    reference: str | None,
    weights: bool,
    plot: str | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure how well the flat file FILE predicts a text.

    With a reference, such as the checkpoint it was converted from, also how far it is from that.
    """
    from pythia_rt.evaluation import evaluate
    from pythia_rt.evaluation.plot import check_plot, write_plot
    from pythia_rt.evaluation.table import lines
    from pythia_rt.evaluation.text import read_text

    _refuse_unused_reference(reference, options)
    if plot is not None:
        check_plot(plot)
    source: Path | list[int] = parse_ids(read_text(text)) if token_ids else text
    result = evaluate(
        file, source, reference=reference, weights=weights, progress=not quiet, **options
    )
    if plot is not None:
        write_plot(result, plot)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2, ensure_ascii=False))
    else:
        for line in lines(result):
            click.echo(line)


def _refuse_unused_reference(reference: str | None, options: dict[str, Any]) -> None:
    """An option that would be ignored is an error, as in `generate`."""
    local = reference is not None and Path(reference).exists()
    for name in ("revision", "step", "cache_dir", "reference_kv_format"):
        option = "--" + name.replace("_", "-")
        if options[name] is not None and reference is None:
            raise click.UsageError(f"{option} is for --reference, which is not given.")
        if options[name] is not None and local and name not in _OF_LOCAL:
            raise click.UsageError(f"{option} is for hub models: {reference} is a local one.")
