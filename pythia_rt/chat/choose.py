"""Which format a model is talked to in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pythia_rt.chat.formats import BuiltIn, built_in_formats
from pythia_rt.chat.template import Template
from pythia_rt.convert.errors import Sentence, quote

if TYPE_CHECKING:
    from pythia_rt.convert.flatfile import FlatFile

Format = BuiltIn | Template
_DEFAULT = "default"  # the template without a name


def choose_format(file: FlatFile, name: str | None) -> Format:
    """The format called `name`, a template of the file or a built-in one; without a name, the
    file's own template, else the built-in one that fits its source's name or its added tokens.

    Raises ValueError, with the names there are, where there is none.
    """
    templates = file.text["chat_templates"]
    built_in = built_in_formats()
    if name is None and len(templates) == 1:
        name = next(iter(templates))
    if name is None and _DEFAULT in templates:
        name = _DEFAULT
    if name in templates:
        return Template(str(name), templates[str(name)], file.text["named_tokens"])
    if name in built_in:
        return built_in[str(name)]
    names = ", ".join([*map(quote, templates), *built_in])
    if name is not None:
        raise ValueError(f"there is no chat format {name!r:.80}: choose one of {names}")
    if templates:
        raise _ask("this model has several chat templates and none is its default", names)
    tokens = {token["content"] for token in file.text["added_tokens"]}
    source = file.metadata["source"]
    for form in built_in.values():
        if form.fits(source, tokens):
            return form
    raise _ask("this model records no chat format, as base models do", names)


def _ask(why: str, names: str) -> ValueError:
    return ValueError(
        Sentence(
            f"{why}: pass format=, one of {names}, or use generate",
            f"{why}: pass --format, one of {names}, or use pythia-rt generate",
        )
    )
