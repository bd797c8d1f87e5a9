"""`pythia-rt info`: show what a flat file holds."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pythia_rt.cli.command import Command


@click.command("info", cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Read all data and compare its SHA-256.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def show_info(file: Path, verify: bool, as_json: bool) -> None:
    """Show what the flat file FILE holds."""
    from pythia_rt.info import describe, lines

    facts = describe(file, verify=verify)
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        for line in lines(facts):
            click.echo(line)
