"""`pythia-rt generate`: continue a prompt."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from pythia_rt.cli.command import PromptCommand
from pythia_rt.cli.model import WritingOptions, show_facts, speed, writing_options
from pythia_rt.cli.prompt import parse_ids, read_prompt
from pythia_rt.cli.text_options import TextsAsked, text_options

if TYPE_CHECKING:
    from pythia_rt.engine.options import TextOptions
    from pythia_rt.generation import Generation
    from pythia_rt.model import Model
    from pythia_rt.sampling import Sampling


@click.command("generate", cls=PromptCommand)
@click.argument("prompt", required=False)
@click.option("--prompt-file", metavar="FILE", help="Read the prompt from a UTF-8 file.")
@click.option("--token-ids", is_flag=True, help="Read and write token ids instead of text.")
@click.option("--model", metavar="MODEL", help="Hub id, folder or flat file.  [default: demo]")
@text_options
@writing_options(quiet="no progress and no speed", verbose="the model, what runs it and the seed")
def generate_text(
    prompt: str | None,
    prompt_file: str | None,
    token_ids: bool,
    model: str | None,
    asked: TextsAsked,
    options: WritingOptions,
) -> None:
    """Continue PROMPT and write the new text to standard output.

    Without PROMPT, or when it is -, the prompt is read from standard input. There and in a file it
    is UTF-8; a byte order mark at its start and one newline at its end are dropped, and CR LF is
    read as a newline. A PROMPT that could be an option goes behind --, as in: -- --help. With
    --token-ids it is ids in decimal, as in "510 10295", and so is what is written. The speed is
    written to standard error.
    """
    if prompt is not None and prompt_file is not None:
        raise click.UsageError("Give a PROMPT or --prompt-file, not both.")
    text = read_prompt(prompt, prompt_file)
    ids = parse_ids(text) if token_ids else None
    loaded, sampling = options.load(model)
    more = asked.options(options.load_draft)
    if ids is not None:
        result = _write_ids(loaded, ids, sampling, more, verbose=options.verbose)
    else:
        result = _write_text(loaded, text, sampling, more, verbose=options.verbose)
    if not options.quiet:
        click.echo(speed(result, loaded), err=True)


def _write_text(
    model: Model, prompt: str, sampling: Sampling, more: TextOptions, *, verbose: bool
) -> Generation:
    with model.stream(prompt, sampling, **more) as stream:
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


def _write_ids(
    model: Model, prompt: list[int], sampling: Sampling, more: TextOptions, *, verbose: bool
) -> Generation:
    result = model.generate(prompt, sampling, **more)
    if verbose:
        show_facts(model, result.seed)
    click.echo(" ".join(map(str, result.tokens)))
    return result
