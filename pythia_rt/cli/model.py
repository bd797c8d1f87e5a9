"""The model that a command writes with, and lines about it and its speed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pythia_rt.loading import Loading

if TYPE_CHECKING:
    from pythia_rt.generation import Generation
    from pythia_rt.model import Model


def load_model(
    model: str | None, loading: Loading, *, weights: str = "format", **options: Any
) -> Model:
    """The model of the options; `weights` names the one that is the weights' format."""
    from pythia_rt.model import Model

    is_file = model is not None and Path(model).is_file()
    is_local = model is None or Path(model).exists()
    _refuse_unused(options, weights, flat_file=is_file, local=is_local)
    options["format"] = options["format"] or "q4"
    if model is None:
        return Model.demo(loading, format=options["format"], cache_dir=options["cache_dir"])
    if is_file:
        return Model.load(model, loading)
    return Model.from_pretrained(model, loading, **options)


def show_facts(model: Model, seed: int | None) -> None:
    """Say what runs and where, on standard error."""
    about = model.file.metadata
    for name, value in (
        ("model", model.file.path),
        ("source", about["source"]),
        ("format", f"{about['recipe']}, KV cache {model.kv_format}"),
        ("runs on", model.runs_on),
        ("seed", seed),
    ):
        if value is not None:
            click.echo(f"{name:<9}{value}", err=True)


def _refuse_unused(options: dict[str, Any], weights: str, *, flat_file: bool, local: bool) -> None:
    """An option that would be ignored is an error, so that nobody believes it had an effect."""
    if flat_file and options["format"]:
        raise click.UsageError(f"--{weights} is for hub models and folders: a flat file has one.")
    if flat_file and options["cache_dir"]:
        raise click.UsageError("--cache-dir is for hub models and folders, not for a flat file.")
    if local and options["revision"]:
        raise click.UsageError("--revision is for hub models: local files have none to choose.")


def speed(result: Generation, model: Model) -> str:
    timing = result.timing
    read = timing.prompt_tokens - timing.cached_tokens
    return (
        f"prefill {read} tokens at {timing.prefill_tokens_per_second:.1f} tokens/s"
        f", decode {timing.new_tokens} tokens at {timing.decode_tokens_per_second:.1f} tokens/s "
        f"(ended by {result.finish_reason}; {model.runs_on})"
    )
