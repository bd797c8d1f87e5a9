"""`pythia-rt audit`: find what is identical, mixed or missing among a model's checkpoints."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from pythia_rt.cli.command import Command


@click.command("audit", cls=Command)
@click.argument("model")
@click.option("--steps", help="Only these, as 0,1,1000.  [default: all]")
@click.option("--deep", is_flag=True, help="Compare the values of tensors, not files.")
@click.option("--whole", is_flag=True, help="With --deep: read all of the hub's tensors.")
@click.option("--known", type=click.Path(), help="Table of known cases.  [default: the package's]")
@click.option("--plot", type=click.Path(), help="Draw a PNG too (needs matplotlib).")
@click.option("--json", "json_file", type=click.Path(), help="Write the findings to this file.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def audit_suite(
    model: str,
    steps: str | None,
    deep: bool,
    whole: bool,
    known: str | None,
    plot: str | None,
    json_file: str | None,
    quiet: bool,
) -> None:
    """Find identical, mixed and missing checkpoints of MODEL.

    MODEL is a hub id whose branches are steps, or a folder with folders step0, step1 and so on. Of
    the hub only the digests of files are asked for: no weights are fetched.
    """
    from tqdm import tqdm

    from pythia_rt.convert.files.atomic import write_file
    from pythia_rt.convert.files.destination import find_place, named_file
    from pythia_rt.suites.audit import audit
    from pythia_rt.suites.audit_plot import check_plot, write_plot
    from pythia_rt.suites.audit_table import lines

    target = None if json_file is None else named_file(json_file)
    if target is not None:
        find_place(target, force=True)
    if plot is not None:
        check_plot(plot)
    with tqdm(unit=" branches", disable=quiet or not sys.stderr.isatty(), leave=False) as bar:

        def told(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        found = audit(
            model,
            steps=None if steps is None else _parse(steps),
            deep=deep,
            whole=whole,
            known=known,
            progress=told,
        )
    # What may have taken hours is shown also where it cannot be written.
    try:
        if target is not None:
            write_file(target, (json.dumps(found.to_dict(), indent=2) + "\n").encode())
        if plot is not None:
            write_plot(found, Path(plot))
    finally:
        for line in lines(found):
            click.echo(line)


def _parse(steps: str) -> list[int]:
    words = [word.strip() for word in steps.split(",")]
    if not all(word.isascii() and word.isdigit() and len(word) < 13 for word in words):
        raise click.UsageError(f"--steps is {steps!r}: give whole numbers, as 0,1,1000.")
    return [int(word) for word in words]
