"""`pythia-rt generate`: continue a prompt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pythia_rt.cli.command import PromptCommand
from pythia_rt.cli.loading_options import NAMES as LOADING
from pythia_rt.cli.loading_options import loading_options
from pythia_rt.cli.model import load_model, show_facts, speed
from pythia_rt.cli.prompt import parse_ids, read_prompt
from pythia_rt.cli.sampling_options import given_options, sampling_options
from pythia_rt.loading import Loading
from pythia_rt.sampling import Sampling, merged

if TYPE_CHECKING:
    from pythia_rt.generation import Generation
    from pythia_rt.model import Model


@click.command("generate", cls=PromptCommand)
@click.argument("prompt", required=False)
@click.option("--prompt-file", metavar="FILE", help="Read the prompt from a UTF-8 file.")
@click.option("--token-ids", is_flag=True, help="Read and write token ids instead of text.")
@click.option("--model", metavar="MODEL", help="Hub id, folder or flat file.  [default: demo]")
@click.option("--revision", help="Branch, tag or commit of a hub model.")
@click.option("--format", "format", help="Weight format to convert to.  [default: q4]")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="Where to keep flat files.")
@click.option("--local-files-only", is_flag=True, help="Download nothing.")
@loading_options(*LOADING)
@click.option("--quiet", is_flag=True, help="Show no progress and no speed.")
@click.option("--verbose", is_flag=True, help="Show the model, what runs it and the seed too.")
@click.option(
    "--suggested-sampling",
    is_flag=True,
    help="Sample as the model's authors suggest (see info), but for the options given here.",
)
@sampling_options
def generate_text(
    prompt: str | None,
    prompt_file: str | None,
    token_ids: bool,
    model: str | None,
    revision: str | None,
    format: str | None,
    cache_dir: Path | None,
    local_files_only: bool,
    quiet: bool,
    verbose: bool,
    suggested_sampling: bool,
    **options: Any,
) -> None:
    """Continue PROMPT and write the new text to standard output.

    Without PROMPT, or when it is -, the prompt is read from standard input. There and in a file it
    is UTF-8; a byte order mark at its start and one newline at its end are dropped, and CR LF is
    read as a newline. A PROMPT that could be an option goes behind --, as in: -- --help. With
    --token-ids it is ids in decimal, as in "510 10295", and so is what is written. The speed is
    written to standard error.
    """
    if quiet and verbose:
        raise click.UsageError("Give --quiet or --verbose, not both.")
    if prompt is not None and prompt_file is not None:
        raise click.UsageError("Give a PROMPT or --prompt-file, not both.")
    loading = Loading(**{name: options.pop(name) for name in LOADING})
    given = given_options(options)
    chosen = merged(None, **given)
    text = read_prompt(prompt, prompt_file)
    ids = parse_ids(text) if token_ids else None
    loaded = load_model(
        model,
        loading,
        revision=revision,
        format=format,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        progress=not quiet,
    )
    if suggested_sampling:
        chosen = merged(loaded.suggested_sampling, **given)
    if ids is not None:
        result = _write_ids(loaded, ids, chosen, verbose=verbose)
    else:
        result = _write_text(loaded, text, chosen, verbose=verbose)
    if not quiet:
        click.echo(speed(result, loaded), err=True)


def _write_text(model: Model, prompt: str, sampling: Sampling, *, verbose: bool) -> Generation:
    with model.stream(prompt, sampling) as stream:
        if verbose:
            show_facts(model, stream.seed)
        # A program gets the text and one newline. On a terminal what comes next starts on a line
        # of its own, be it an error, and no empty line comes before it.
        terminal = sys.stdout is not None and sys.stdout.isatty()
        in_line = False
        try:
            for piece in stream:
                click.echo(piece.encode(), nl=False)  # bytes: UTF-8 whatever the locale says
                in_line = not piece.endswith("\n")
        except Exception:
            if terminal and in_line:
                click.echo()
            raise
        if in_line or not terminal:
            click.echo()
        return stream.result


def _write_ids(model: Model, prompt: list[int], sampling: Sampling, *, verbose: bool) -> Generation:
    result = model.generate(prompt, sampling)
    if verbose:
        show_facts(model, result.seed)
    click.echo(" ".join(map(str, result.tokens)))
    return result
