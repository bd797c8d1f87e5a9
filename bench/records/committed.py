"""Tables that are committed: what a build is like, to be compared with a later one.

A table is a file of JSON with the compiler's name and one line for each row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

import click

from pythia_rt.convert.files.atomic import write_file


@dataclass(frozen=True, order=True)
class Row:
    """A row of a table; its fields are those of the file."""

    @property
    def place(self) -> str:
        """The row's name for messages."""
        raise NotImplementedError


Kind = TypeVar("Kind", bound=Row)


def written(compiler: Mapping[str, str], name: str, rows: Sequence[Row]) -> str:
    """The table as JSON: `compiler` is {key: its name}, `name` the key of the rows."""
    ((key, said),) = compiler.items()
    lines = ",\n".join(json.dumps(asdict(row)) for row in rows)
    return f'{{"{key}": {json.dumps(said)}, "{name}": [\n{lines}\n]}}\n'


def read(path: Path, key: str, name: str, kind: type[Kind]) -> tuple[str, tuple[Kind, ...]]:
    """The compiler's name and the rows that `written` wrote."""
    content = json.loads(path.read_text())
    known = {field.name for field in fields(kind)}
    if any(line.keys() != known for line in content[name]):
        raise click.ClickException(f"{path} has other fields: write it anew")
    return content[key], tuple(kind(**line) for line in content[name])


def save(path: Path, content: str, markdown: str) -> None:
    """Write the table, and the same for people beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content.encode())
    write_file(path.with_suffix(".md"), markdown.encode())


def by_place(rows: Iterable[Kind]) -> dict[str, Kind]:
    """The rows by their names."""
    return {row.place: row for row in rows}


def moved(now: Mapping[str, Row], before: Mapping[str, Row]) -> list[str]:
    """One sentence for each row that only one of two tables has."""
    return [
        *(f"{place} is not in the table." for place in now if place not in before),
        *(f"{place} has vanished." for place in before if place not in now),
    ]
