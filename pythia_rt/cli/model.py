"""The model that a command writes with, how it writes, and lines about it and its speed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pythia_rt.cli.loading_options import NAMES as LOADING
from pythia_rt.cli.loading_options import loading_options
from pythia_rt.cli.sampling_options import given_options, sampling_options
from pythia_rt.cli.source_options import DOWNLOADS_AND_FLAT_FILES, FORMATS, REVISION, STEP
from pythia_rt.loading import Loading
from pythia_rt.sampling import Sampling, merged

if TYPE_CHECKING:
    from pythia_rt.generation import Generation
    from pythia_rt.model import Model

Command = Callable[..., None]
_FORMAT = "--format"  # of the weights, unless a command has another format to choose
_SOURCE = ("revision", "step", "format", "cache_dir", "local_files_only")
_SAMPLING = tuple(option.name for option in dataclasses.fields(Sampling))
_OF_MODEL = (*_SOURCE, *LOADING, "quiet")
_NAMES = (*_OF_MODEL, "verbose", "suggested_sampling", *_SAMPLING)


def model_options(*, quiet: str) -> Callable[[Command], Callable[..., None]]:
    """Options of a command that loads a model; it gets them as `options`, ModelOptions.

    `quiet` says what --quiet leaves out.
    """

    def add(command: Command) -> Command:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            options = ModelOptions(_FORMAT, {name: values.pop(name) for name in _OF_MODEL})
            command(options=options, **values)

        for option in reversed(_of_model(_FORMAT, quiet)):
            run = option(run)
        return run

    return add


def _of_model(weights: str, quiet: str) -> tuple[Callable[[Any], Any], ...]:
    return (
        click.option("--revision", help=REVISION),
        click.option("--step", type=int, help=STEP),
        click.option(weights, "format", help=f"Weight format: {FORMATS}.  [default: q4]"),
        click.option("--cache-dir", type=click.Path(path_type=Path), help=DOWNLOADS_AND_FLAT_FILES),
        click.option("--local-files-only", is_flag=True, help="Download nothing."),
        loading_options(*LOADING),
        click.option("--quiet", is_flag=True, help=f"Show {quiet}."),
    )


def writing_options(
    *, weights: str = _FORMAT, quiet: str, verbose: str
) -> Callable[[Command], Command]:
    """Options of a command that writes with a model; it gets them as `options`, WritingOptions.

    `weights` is the one for the weights' format; the others say what --quiet leaves out and
    --verbose shows.
    """
    added = (
        *_of_model(weights, quiet),
        click.option("--verbose", is_flag=True, help=f"Show {verbose} too."),
        click.option(
            "--suggested-sampling",
            is_flag=True,
            help="Sample as the model's authors suggest (see info), but for the options given.",
        ),
        sampling_options,
    )

    def add(command: Command) -> Command:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            options = WritingOptions(weights, {name: values.pop(name) for name in _NAMES})
            command(options=options, **values)

        for option in reversed(added):
            run = option(run)
        return run

    return add


class ModelOptions:
    """What `model_options` hold: whether to be `quiet`, and what `load` needs.

    Raises what click raises for options that contradict each other, and ValueError for a value that
    an option cannot have.
    """

    def __init__(self, weights: str, values: dict[str, Any]) -> None:
        self.quiet: bool = values["quiet"]
        self._weights = weights
        self._source = {name: values[name] for name in _SOURCE}
        self._loading = Loading(**{name: values[name] for name in LOADING})

    def load_model(self, model: str | None) -> Model:
        """The model, by default the demo."""
        from pythia_rt.convert.files.gguf import is_gguf
        from pythia_rt.model import Model

        source = self._source | {"format": self._source["format"] or "q4"}
        if model is None:
            self._refuse_unused(flat_file=False, local=True, demo=True)
            return Model.demo(self._loading, format=source["format"], cache_dir=source["cache_dir"])
        if Path(model).is_file() and not is_gguf(Path(model)):
            self._refuse_unused(flat_file=True, local=True)
            return Model.load(model, self._loading)
        self._refuse_unused(flat_file=False, local=Path(model).exists())
        return Model.from_pretrained(model, self._loading, **source, progress=not self.quiet)

    def load_draft(self, path: str) -> Model:
        """A draft's model, of a flat file, loaded as the model is."""
        from pythia_rt.model import Model

        return Model.load(path, dataclasses.replace(self._loading, gpu_layers=None))

    def _refuse_unused(self, *, flat_file: bool, local: bool, demo: bool = False) -> None:
        """An option that would be ignored is an error, so that nobody believes it had an effect."""
        if flat_file and self._source["format"]:
            raise click.UsageError(
                f"{self._weights} is for hub models and folders: a flat file has one."
            )
        if flat_file and self._source["cache_dir"]:
            raise click.UsageError(
                "--cache-dir is for hub models and folders, not for a flat file."
            )
        if local and self._source["revision"]:
            raise click.UsageError("--revision is for hub models: local files have none to choose.")
        if (flat_file or demo) and self._source["step"] is not None:
            raise click.UsageError("--step is for hub models and folders of steps.")


class WritingOptions(ModelOptions):
    """What `writing_options` hold: besides, how to sample, and whether to be `verbose`."""

    def __init__(self, weights: str, values: dict[str, Any]) -> None:
        self.verbose: bool = values["verbose"]
        if values["quiet"] and self.verbose:
            raise click.UsageError("Give --quiet or --verbose, not both.")
        super().__init__(weights, values)
        self._suggested: bool = values["suggested_sampling"]
        self._given = given_options({name: values[name] for name in _SAMPLING})
        self._sampling = merged(None, **self._given)

    def load(self, model: str | None) -> tuple[Model, Sampling]:
        """The model, by default the demo, and how to sample from it."""
        loaded = self.load_model(model)
        if self._suggested:
            return loaded, merged(loaded.suggested_sampling, **self._given)
        return loaded, self._sampling


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


def speed(result: Generation, model: Model) -> str:
    timing = result.timing
    read = timing.prompt_tokens - timing.cached_tokens
    drafted = result.drafted
    guesses = f", {drafted.accepted} of {drafted.proposed} guesses right" if drafted else ""
    return (
        f"prefill {read} tokens at {timing.prefill_tokens_per_second:.1f} tokens/s"
        f", decode {timing.new_tokens} tokens at {timing.decode_tokens_per_second:.1f} tokens/s"
        f"{guesses} (ended by {result.finish_reason}; {model.runs_on})"
    )
