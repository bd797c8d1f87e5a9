"""The options of `Sampling` as options of a command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import click
from click.core import ParameterSource

from pythia_rt.sampling import Sampling

_DEFAULT = ParameterSource.DEFAULT


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


def given_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the `values` of a command's sampling options that stand on its command line."""
    source = click.get_current_context().get_parameter_source
    given = {name: value for name, value in values.items() if source(name) is not _DEFAULT}
    if "logit_bias" in given:
        given["logit_bias"] = dict(given["logit_bias"])
    return given
