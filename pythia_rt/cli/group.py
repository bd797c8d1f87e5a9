"""The group of commands: errors, notes and interrupts become what a terminal should see."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import click

from pythia_rt.cli.wording import sentence


class Commands(click.Group):
    """Turns the library's exceptions into one sentence and an exit status."""

    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        """Read the arguments; --help and --version are written here."""
        try:
            return super().make_context(*arguments, **more)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise click.ClickException(sentence(error, None)) from error

    def invoke(self, context: click.Context) -> Any:
        def note(message: Warning | str, *_: Any, **__: Any) -> None:
            warning = message if isinstance(message, Warning) else Warning(message)
            click.echo(f"Note: {sentence(warning, self._running(context))}", err=True)

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", UserWarning)
                warnings.showwarning = note
                return super().invoke(context)
        except (KeyboardInterrupt, ImportError) as error:
            if not _is_interrupt(error):
                raise
            # The shell's prompt starts on a line of its own, behind the text and "^C".
            for stream in (sys.stderr, sys.stdout):
                if stream is not None and stream.isatty():
                    click.echo(file=stream)
                    break
            context.exit(130)
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own, and the reader of a pipe that went away: no news
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            raise click.ClickException(sentence(error, self._running(context))) from error

    def _running(self, context: click.Context) -> click.Command | None:
        return self.get_command(context, context.invoked_subcommand or "")


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether it is Ctrl-C, of which a module of C that was being imported makes its own error."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
