"""The options of `Loading` as options of a command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import click

from pythia_rt.loading import Loading

NAMES = tuple(option.name for option in fields(Loading))


def loading_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """One option for each of `names`, fields of `Loading`, with its default and its help text."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(fields(Loading)):
            if option.name in names:
                command = _option(option.name, option.metadata)(command)
        return command

    return add


def _option(name: str, about: Mapping[str, Any]) -> Callable[[Any], Any]:
    spelled, doc = "--" + name.replace("_", "-"), about["doc"]
    if about["kind"] is bool:
        return click.option(spelled, name, is_flag=True, help=doc)
    shown = f"  [default: {about['shown']}]" if "shown" in about else ""
    return click.option(spelled, name, type=about["kind"], help=doc + shown)
