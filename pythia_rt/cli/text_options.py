"""Options of a command that say which texts there may be, and what guesses their tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pythia_rt.convert.files.text import read_text_file

if TYPE_CHECKING:
    from pythia_rt.engine.options import TextOptions
    from pythia_rt.model import Model

Command = Callable[..., None]
_CONSTRAINTS = ("grammar", "json_schema", "regex")
_DRAFTS = ("draft", "predicted")
_ADDED = (
    click.option("--grammar", metavar="FILE", help="The text follows a grammar: Lark or GBNF."),
    click.option(
        "--json-schema", metavar="SCHEMA", help="The text is JSON of this schema: {...}, or a file."
    ),
    click.option("--regex", metavar="REGEX", help="The text as a whole matches it."),
    click.option(
        "--draft",
        metavar="DRAFT",
        help="Guess tokens, which changes the speed alone: 'lookup', or a smaller model's flat "
        "file.",
    ),
    click.option(
        "--predicted", metavar="FILE", help="The same from a text that the new one will resemble."
    ),
)


def text_options(command: Command) -> Command:
    """Add them to a command, which gets them as `asked`, a TextsAsked."""

    @functools.wraps(command)
    def run(**values: Any) -> None:
        given = {name: values.pop(name) for name in (*_CONSTRAINTS, *_DRAFTS)}
        command(asked=TextsAsked(given), **values)

    for option in reversed(_ADDED):
        run = option(run)
    return run


class TextsAsked:
    """What `text_options` hold, all of it read that needs no model.

    Raises UsageError for options that contradict each other, OSError for a file that cannot be
    read, and ValueError for what is in it, or without llguidance.
    """

    def __init__(self, values: dict[str, str | None]) -> None:
        for names in (_CONSTRAINTS, _DRAFTS):
            given = ["--" + name.replace("_", "-") for name in names if values[name] is not None]
            if len(given) > 1:
                raise click.UsageError(f"Give {given[0]} or {given[1]}, not both.")
        self._draft = values["draft"]
        self._options: TextOptions = {}
        self._read_constraint(values)
        if values["predicted"] is not None:
            from pythia_rt.engine.drafts import Draft

            self._options["draft"] = Draft.predicted(read_text_file(Path(values["predicted"])))

    def _read_constraint(self, values: dict[str, str | None]) -> None:
        regex, grammar, schema = values["regex"], values["grammar"], values["json_schema"]
        if regex is None and grammar is None and schema is None:
            return
        from pythia_rt.grammar import Constraint
        from pythia_rt.grammar.library import llguidance

        try:
            llguidance()
        except ImportError as error:
            raise ValueError(str(error)) from None
        if grammar is not None:
            grammar = read_text_file(Path(grammar))
        if schema is not None and not schema.lstrip().startswith("{"):
            schema = read_text_file(Path(schema))
        self._options["constraint"] = Constraint(grammar=grammar, json_schema=schema, regex=regex)

    def options(self, load: Callable[[str], Model]) -> TextOptions:
        """Them as options of `Model.generate`; `load` opens a draft's flat file."""
        if self._draft in (None, "lookup"):
            draft = self._options.get("draft")
            return {**self._options, "draft": self._draft or draft}
        from pythia_rt.engine.drafts import Draft

        return {**self._options, "draft": Draft.model(load(str(self._draft)))}
