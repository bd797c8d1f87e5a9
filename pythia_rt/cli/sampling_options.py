"""The options of `Sampling` as options of a command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import click

from pythia_rt.sampling import Sampling


def _seed(value: str) -> int | None:
    try:
        return None if value == "random" else int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a whole number nor 'random'.") from None


def _bias(value: str) -> tuple[int, float]:
    token, _, bias = value.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not ID=VALUE, as in 42=-1.5.") from None


def sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """One option per field of `Sampling`, with its default and its help text."""
    for option in reversed(fields(Sampling)):
        name = "--" + option.name.replace("_", "-")
        doc = option.metadata["doc"]
        if option.name == "logit_bias":
            add = click.option(name, type=_bias, multiple=True, metavar="ID=VALUE", help=doc)
        elif option.name == "stop":
            add = click.option(name, multiple=True, metavar="TEXT", help=doc)
        elif option.name == "stop_token_ids":
            add = click.option(
                "--stop-token-id", option.name, type=int, multiple=True, metavar="ID", help=doc
            )
        elif option.name == "seed":
            doc = "Seed of the random numbers; 'random' draws a new one, which --verbose shows."
            add = click.option(
                name, type=_seed, default="random", show_default=True, metavar="SEED", help=doc
            )
        else:
            kind = type(option.default)
            add = click.option(name, type=kind, default=option.default, show_default=True, help=doc)
        command = add(command)
    return command
