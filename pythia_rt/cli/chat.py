"""`pythia-rt chat`: talk with a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pythia_rt.cli.command import Command
from pythia_rt.cli.model import WritingOptions, show_facts, speed, writing_options
from pythia_rt.cli.turns import Turns
from pythia_rt.cli.wording import sentence

if TYPE_CHECKING:
    from pythia_rt.chat.chat import Chat
    from pythia_rt.generation import Generation
    from pythia_rt.model import Model
    from pythia_rt.sampling import Sampling

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
@writing_options(
    weights="--weights",
    quiet="no progress and no notes",
    verbose="the model, what runs it and the speed",
)
def chat_with_model(
    model: str,
    system: str | None,
    chat_format: str | None,
    show_prompt: bool,
    options: WritingOptions,
) -> None:
    """Talk with MODEL, a hub id, a folder or a flat file.

    Each line of standard input is a turn; the answers go to standard output, all else to standard
    error. /reset begins a new chat, /exit or Ctrl-D ends it, and Ctrl-C stops an answer, of which
    the chat keeps what was written. A chat that fills the model's context is not cut: /reset begins
    anew.
    """
    loaded, sampling = options.load(model)
    chat = loaded.new_chat(system, format=chat_format)
    chat.prompt("Hello")  # a format that has no system text, or cannot be used, is refused here
    turns = Turns()
    if options.verbose:
        show_facts(loaded, sampling.seed)
        click.echo(f"chat     {chat.format}", err=True)
    if turns.is_terminal and not options.quiet:
        about = ", ".join(f"{name} {what}" for name, what in _COMMANDS.items())
        click.echo(f"{about}; Ctrl-C stops an answer", err=True)
    talk = _Talk(loaded, chat, sampling, turns, show_prompt, options)
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
        options: WritingOptions,
    ) -> None:
        self._model = model
        self._chat = chat
        self._sampling = sampling
        self._turns = turns
        self._show_prompt = show_prompt
        self._quiet = options.quiet
        self._verbose = options.verbose

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
