"""`pythia-rt convert`: make a flat file of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pythia_rt.cli.command import Command
from pythia_rt.cli.source_options import DOWNLOADS, FORMATS, REVISION, STEP


@click.command("convert", cls=Command)
@click.argument("source")
@click.argument("destination", type=click.Path())
@click.option(
    "--format", "format", default="q4", show_default=True, help=f"Weight format: {FORMATS}."
)
@click.option("--base", help="Folder or hub id of the model that SOURCE, a delta, is added to.")
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="FOLDER[=WEIGHT]",
    help="LoRA adapter of peft to merge into the weights; may be repeated.",
)
@click.option(
    "--task-vector",
    "task_vectors",
    multiple=True,
    metavar="FOLDER[=WEIGHT]",
    help="Fine-tuned model whose difference from SOURCE is added; may be repeated.",
)
@click.option("--embed", help="Format of the embeddings.  [default: the recipe's]")
@click.option("--head", help="Format of the output head.  [default: the recipe's]")
@click.option("--attention", help="Format of the attention layers.  [default: the recipe's]")
@click.option("--mlp", help="Format of the MLP layers.  [default: the recipe's]")
@click.option("--activation", help="Use this activation in place of the config's, as gelu_tanh.")
@click.option("--revision", help=REVISION)
@click.option("--step", type=int, help=STEP)
@click.option("--drop-source", is_flag=True, help="Delete the downloaded weights afterwards.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help=DOWNLOADS)
@click.option("--threads", type=int, help="Threads to pack with.  [default: performance cores]")
@click.option("--force", is_flag=True, help="Replace DESTINATION, a regular file or a link to one.")
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path),
    metavar="TEXT",
    help="UTF-8 file of typical text: the weights are rounded so that it loses least.",
)
@click.option("--calibrate-tokens", type=int, help="Tokens of it to use.  [default: 16384]")
@click.option("--report", is_flag=True, help="Measure the result and store that in it, for info.")
@click.option(
    "--report-text",
    type=click.Path(path_type=Path),
    help="UTF-8 file to measure on, implies --report.  [default: a short one of ours]",
)
@click.option("--quiet", is_flag=True, help="Show no progress.")
def convert_checkpoint(
    source: str,
    destination: str,
    report: bool,
    report_text: Path | None,
    quiet: bool,
    adapters: tuple[str, ...],
    task_vectors: tuple[str, ...],
    drop_source: bool,
    **options: Any,
) -> None:
    """Convert SOURCE to the flat file DESTINATION.

    SOURCE is a hub id, a folder in Hugging Face or Meta layout, or a GGUF file.
    """
    from pythia_rt.convert import FlatFile, convert
    from pythia_rt.convert.source.steps import chosen

    if not Path(source).expanduser().exists():
        from pythia_rt.suites.known import warn_if_wrong

        warn_if_wrong(source, chosen(options["revision"], options["step"]) or "main")
    if report or report_text is not None:
        from pythia_rt.evaluation import reporter

        options["report"] = reporter(report_text, threads=options["threads"], progress=not quiet)
    path = convert(
        source,
        destination,
        progress=not quiet,
        keep_source=not drop_source,
        adapters=[_weighted(text) for text in adapters],
        task_vectors=[_weighted(text) for text in task_vectors],
        **options,
    )
    if not quiet:
        click.echo(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB", err=True)
        if before := FlatFile(path).quantised_before:
            click.echo(f"the values of {source} were quantised before, to {before}", err=True)


def _weighted(text: str) -> tuple[str, float]:
    """A folder and the weight after its last "=", unless there is a folder of that whole name."""
    folder, sign, weight = text.rpartition("=")
    if not sign or Path(text).expanduser().exists():
        return text, 1.0
    try:
        return folder, float(weight)
    except ValueError:
        raise ValueError(f"{text} has no number after its '=': give FOLDER=WEIGHT") from None
