"""The group of commands: errors, notes and interrupts become what a terminal should see."""

from __future__ import annotations

import warnings
from typing import Any

import click


class Commands(click.Group):
    """Turns the library's exceptions into one sentence and an exit status."""

    def invoke(self, context: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", UserWarning)
                warnings.showwarning = lambda message, *_: click.echo(f"Note: {message}", err=True)
                return super().invoke(context)
        except KeyboardInterrupt:
            click.echo(err=True)  # the shell's prompt starts on a line of its own
            context.exit(130)
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own, and the reader of a pipe that went away: no news
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            raise click.ClickException(_sentence(error)) from error


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
