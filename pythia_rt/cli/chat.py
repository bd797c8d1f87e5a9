"""`pythia-rt chat`: talk with a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pythia_rt.cli.command import Command
from pythia_rt.cli.loading_options import NAMES as LOADING
from pythia_rt.cli.loading_options import loading_options
from pythia_rt.cli.model import load_model, show_facts, speed
from pythia_rt.cli.sampling_options import given_options, sampling_options
from pythia_rt.cli.turns import Turns
from pythia_rt.cli.wording import sentence
from pythia_rt.loading import Loading
from pythia_rt.sampling import Sampling, merged

if TYPE_CHECKING:
    from pythia_rt.chat.chat import Chat
    from pythia_rt.generation import Generation
    from pythia_rt.model import Model

_COMMANDS = {"/reset": "begins a new chat", "/exit": "ends it, as Ctrl-D does"}


@click.command("chat", cls=Command)
@click.argument("model")
@click.option("--system", metavar="TEXT", help="What the model is told before the first turn.")
@click.option(
    "--format",
    "chat_format",
    metavar="NAME",
    help="Format of the turns, as vicuna_v1.1 or chatml.  [default: what the model records]",
)
@click.option("--show-prompt", is_flag=True, help="Show each prompt as the model reads it.")
@click.option("--revision", help="Branch, tag or commit of a hub model.")
@click.option("--weights", "format", help="Weight format to convert to.  [default: q4]")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="Where to keep flat files.")
@click.option("--local-files-only", is_flag=True, help="Download nothing.")
@loading_options(*LOADING)
@click.option("--quiet", is_flag=True, help="Show no progress and no notes.")
@click.option("--verbose", is_flag=True, help="Show the model, what runs it and the speed too.")
@click.option(
    "--suggested-sampling",
    is_flag=True,
    help="Sample as the model's authors suggest (see info), but for the options given here.",
)
@sampling_options
def chat_with_model(
    model: str,
    system: str | None,
    chat_format: str | None,
    show_prompt: bool,
    revision: str | None,
    format: str | None,
    cache_dir: Path | None,
    local_files_only: bool,
    quiet: bool,
    verbose: bool,
    suggested_sampling: bool,
    **options: Any,
) -> None:
    """Talk with MODEL, a hub id, a folder or a flat file.

    Each line of standard input is a turn; the answers go to standard output, all else to standard
    error. /reset begins a new chat, /exit or Ctrl-D ends it, and Ctrl-C stops an answer, of which
    the chat keeps what was written. A chat that fills the model's context is not cut: /reset begins
    anew.
    """
    if quiet and verbose:
        raise click.UsageError("Give --quiet or --verbose, not both.")
    loading = Loading(**{name: options.pop(name) for name in LOADING})
    given = given_options(options)
    chosen = merged(None, **given)
    loaded = load_model(
        model,
        loading,
        weights="weights",
        revision=revision,
        format=format,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        progress=not quiet,
    )
    if suggested_sampling:
        chosen = merged(loaded.suggested_sampling, **given)
    chat = loaded.new_chat(system, format=chat_format)
    chat.prompt("Hello")  # a format that has no system text, or cannot be used, is refused here
    turns = Turns()
    if verbose:
        show_facts(loaded, chosen.seed)
        click.echo(f"chat     {chat.format}", err=True)
    if turns.is_terminal and not quiet:
        about = ", ".join(f"{name} {what}" for name, what in _COMMANDS.items())
        click.echo(f"{about}; Ctrl-C stops an answer", err=True)
    talk = _Talk(loaded, chat, chosen, turns, show_prompt, quiet, verbose)
    while (text := turns.read()) is not None:
        if not talk.take(text):
            break


class _Talk:
    """A chat on standard input and output."""

    def __init__(
        self,
        model: Model,
        chat: Chat,
        sampling: Sampling,
        turns: Turns,
        show_prompt: bool,
        quiet: bool,
        verbose: bool,
    ) -> None:
        self._model = model
        self._chat = chat
        self._sampling = sampling
        self._turns = turns
        self._show_prompt = show_prompt
        self._quiet = quiet
        self._verbose = verbose

    def take(self, text: str) -> bool:
        """Do what a line says; False at the end."""
        command = text.strip()
        if command == "/exit":
            return False
        if command == "/reset":
            self._chat.reset()
            self._note("a new chat")
        elif command[:1] == "/" and command[1:].isalpha():
            about = ", ".join(f"{name} {what}" for name, what in _COMMANDS.items())
            self._say(f"there is no {command}: {about}")
        elif command:
            self._answer(text)
        return True

    def _answer(self, text: str) -> None:
        try:
            if self._show_prompt:
                click.echo(self._chat.prompt(text).encode(), err=True)
            self._write(text)
        except KeyboardInterrupt:
            if not self._turns.is_terminal:
                raise
            click.echo()
            self._note("stopped")
        except (ValueError, RuntimeError) as error:
            if not self._turns.is_terminal:
                raise
            self._say(sentence(error, click.get_current_context().command))

    def _write(self, text: str) -> None:
        in_line = False
        with self._chat.stream(text, self._sampling) as stream:
            try:
                for piece in stream:
                    click.echo(piece.encode(), nl=False)  # bytes: UTF-8 whatever the locale says
                    in_line = not piece.endswith("\n")
            except Exception:
                if in_line:
                    click.echo()
                raise
        if in_line or not self._turns.is_terminal:
            click.echo()
        self._comment(stream.result)

    def _comment(self, result: Generation) -> None:
        """Say why an answer was cut."""
        used = result.timing.prompt_tokens + result.timing.new_tokens
        if result.finish_reason == "length" and used >= self._chat.capacity:
            self._note(
                f"the answer was cut: the context of {self._chat.capacity} tokens is full, /reset "
                "begins a new chat"
            )
        elif result.finish_reason == "length":
            self._note(
                f"the answer was cut after {result.timing.new_tokens} tokens: "
                "--max-new-tokens allows more"
            )
        if self._verbose:
            click.echo(speed(result, self._model), err=True)

    def _note(self, text: str) -> None:
        if not self._quiet:
            self._say(text)

    def _say(self, text: str) -> None:
        click.echo(f"({text})", err=True)
