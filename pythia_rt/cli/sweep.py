"""`pythia-rt sweep`: measure many checkpoints."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import click

from pythia_rt.cli.command import Command
from pythia_rt.cli.source_options import FORMATS


@click.command("sweep", cls=Command)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    required=True,
    metavar="NAME[:OPTION=VALUE,...]",
    help="What to measure, as perplexity:text.txt or package.module:function; may be repeated.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of results; it goes on."
)
@click.option(
    "--steps", default="all", show_default=True, help="all, log, evals, or a list as 0,1,512."
)
@click.option(
    "--format", "format", default="q8", show_default=True, help=f"Weight format: {FORMATS}."
)
@click.option("--plot", type=click.Path(), help="Draw a PNG too (needs matplotlib).")
@click.option(
    "--ray", metavar="ADDRESS", help="Ray cluster to measure on, as auto; local starts one here."
)
@click.option(
    "--workers", type=int, default=1, show_default=True, help="Processes to measure with."
)
@click.option("--threads", type=int, help="Threads of a checkpoint.  [default: its share]")
@click.option("--offline", is_flag=True, help="Fetch nothing.")
@click.option("--quiet", is_flag=True, help="Show no progress and no table.")
def sweep_models(
    models: tuple[str, ...],
    metrics: tuple[str, ...],
    plot: str | None,
    ray: str | None,
    workers: int,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure checkpoints of one MODEL or several.

    MODEL is a hub id whose branches are steps, or a folder with folders step0, step1 and so on.
    Results are files in the folder --out, where the same command goes on after it was interrupted,
    and one table of them, results.jsonl and results.csv. The exit status is 1 where something
    could not be measured.
    """
    from pythia_rt.evaluation.plot import check_plot
    from pythia_rt.sweeps import RayCluster, sweep
    from pythia_rt.sweeps.plot import write_plot

    if ray is not None and workers != 1:
        raise click.UsageError("--workers has no effect with --ray: leave one of them out.")
    if plot is not None:
        check_plot(plot)
    cluster = None
    if ray is not None:
        cluster = functools.partial(RayCluster, ray, threads=options["threads"] or 1)
    found = sweep(
        models,
        metrics=metrics,
        executor=cluster,
        workers=workers,
        progress=not quiet,
        **options,
    )
    if not quiet:
        for line in _table(found.rows):
            click.echo(line)
        before = f", {found.skipped} were there before" if found.skipped else ""
        click.echo(f"{found.measured} results in {found.folder}{before}", err=True)
    if plot is not None:
        write_plot(found, plot)
    for failure in found.failures:
        place = failure["model"] + (
            "" if failure["step"] is None else f" at step {failure['step']}"
        )
        what = "" if failure["metric"] is None else f", {failure['metric']}"
        click.echo(f"{place}{what}: {failure['error']}: {failure['message']}", err=True)
    if found.failures:
        raise click.ClickException(
            f"{len(found.failures)} of the results could not be had: run it again to retry"
        )


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """The numbers as aligned text."""
    cells = [("model", "step", "metric", "value", "stderr", "n")]
    for row in rows:
        numbers = ["-" if row[k] is None else f"{row[k]:.6g}" for k in ("value", "stderr")]
        step = "-" if row["step"] is None else str(row["step"])
        cells.append((row["model"], step, row["metric"], *numbers, str(row["n"])))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines: list[str] = []
    for model, step, metric, *numbers in cells:
        left = f"{model:<{widths[0]}}  {step:>{widths[1]}}  {metric:<{widths[2]}}"
        right = "".join(f"  {each:>{w}}" for each, w in zip(numbers, widths[3:], strict=True))
        lines.append(left + right)
    return lines
