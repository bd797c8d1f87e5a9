"""What is known of checkpoints that are not what their names say, and of those that seem so.

The table, known.json, is dated; $PYTHIA_RT_KNOWN_CHECKPOINTS names another one of its form:

    {"date": "2026-11-27", "entries": [{
        "models": ["EleutherAI/pythia-2.8b"],    patterns of hub ids, as of a shell
        "steps": [0, 1, [1000, 53000]],          and from 1000 to 53000 in thousands
        "with": ["main"],                        other revisions, which nobody is warned of
        "kind": "identical",                     or "mixture", "missing", "other"
        "state": "open",                         or "by design", "fixed", "suspected", ...
        "wrong": true,                           whoever loads it is warned
        "what": "it holds ...", "sources": ["EleutherAI/pythia#205"]}]}
"""

from __future__ import annotations

import fnmatch
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pythia_rt.convert.files.json_object import read_json
from pythia_rt.convert.source.steps import revision_of, step_of

TABLE = Path(__file__).with_name("known.json")
VARIABLE = "PYTHIA_RT_KNOWN_CHECKPOINTS"
IDENTICAL, MIXTURE, MISSING, OTHER = KINDS = ("identical", "mixture", "missing", "other")
BY_DESIGN = "by design"
_THOUSAND = 1000


@dataclass(frozen=True)
class Known:
    """One entry of the table: what is said of some revisions of some models, and by whom."""

    models: tuple[str, ...]
    revisions: tuple[str, ...]
    kind: str
    state: str
    what: str
    sources: tuple[str, ...]
    wrong: bool = False

    def is_of(self, model: str) -> bool:
        """Whether the entry is of this model."""
        return any(fnmatch.fnmatchcase(model, pattern) for pattern in self.models)

    @property
    def reference(self) -> str:
        """Where it is said, and what became of it."""
        return f"{', '.join(self.sources)}: {self.state}"


@dataclass(frozen=True)
class KnownTable:
    """The entries of a table, and the day on which they were collected."""

    date: str
    entries: tuple[Known, ...]

    def of(self, model: str) -> list[Known]:
        """Return the entries of one model."""
        return [entry for entry in self.entries if entry.is_of(model)]


def read_known(path: str | os.PathLike[str] | None = None) -> KnownTable:
    """Return the table at `path`, else the one that the environment names, else the bundled one.

    Raises ValueError with a sentence for a table of another form, OSError for one that cannot be
    read.
    """
    where = Path(path or os.environ.get(VARIABLE) or TABLE)
    if not where.exists():
        raise FileNotFoundError(f"{where} does not exist: give a table of known checkpoints")
    table = read_json(where, ValueError)
    entries = table.get("entries")
    if not isinstance(table.get("date"), str) or not isinstance(entries, list):
        raise ValueError(f"{where} is no table of known checkpoints: see pythia_rt.suites.known")
    return KnownTable(
        table["date"], tuple(_entry(where, n, item) for n, item in enumerate(entries))
    )


def _entry(where: Path, number: int, item: Any) -> Known:
    values: Mapping[str, Any] = item if isinstance(item, dict) else {}
    lists = {key: values.get(key, []) for key in ("models", "with", "sources")}
    texts = [values.get(key) for key in ("kind", "state", "what")]
    steps = _steps(values.get("steps", []))
    if (
        steps is None
        or not all(
            isinstance(v, list) and all(isinstance(x, str) for x in v) for v in lists.values()
        )
        or not all(isinstance(text, str) for text in texts)
        or values["kind"] not in KINDS
        or not isinstance(values.get("wrong", False), bool)
    ):
        raise ValueError(
            f"{where}: entry {number} is none of a table of known checkpoints: see "
            "pythia_rt.suites.known"
        )
    return Known(
        tuple(lists["models"]),
        (*lists["with"], *(f"step{step}" for step in steps)),
        values["kind"],
        values["state"],
        values["what"],
        tuple(lists["sources"]),
        values.get("wrong", False),
    )


def _steps(items: Any) -> list[int] | None:
    """Return the steps that a list of steps and pairs names; None where it is something else."""
    if not isinstance(items, list):
        return None
    found: list[int] = []
    for item in items:
        first, last = item if isinstance(item, list) and len(item) == 2 else (item, item)
        if type(first) is not int or type(last) is not int or not 0 <= first <= last < 1 << 40:
            return None
        if (last - first) // _THOUSAND > 1 << 20:
            return None
        found += range(first, last + 1, _THOUSAND)
    return found


_warned: set[tuple[str, str]] = set()


def wrong(model: str, revision: str) -> list[Known]:
    """Return the entries by which a step of a hub model is not what its name says.

    Raises what `read_known` raises.
    """
    if step_of(revision) is None:
        return []
    return [e for e in read_known().of(model) if e.wrong and revision in e.revisions]


def is_wrong(model: str, step: int) -> bool:
    """Whether a step of a hub model stands in the table as another than its name says."""
    return bool(wrong(model, revision_of(step)))


def warn_if_wrong(model: str, revision: str) -> None:
    """Warn, once in a process, when the table has this branch of a hub model as wrong.

    Raises what `read_known` raises.
    """
    if (model, revision) in _warned:
        return
    for entry in wrong(model, revision):
        warnings.warn(
            f"{model} at {revision} is not what its name says: {entry.what} "
            f"({', '.join(entry.sources)})",
            stacklevel=3,  # where the model was asked for
        )
    _warned.add((model, revision))
