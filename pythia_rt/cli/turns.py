"""The lines that somebody types, or a pipe brings."""

from __future__ import annotations

import contextlib
import sys

import click

from pythia_rt.convert.files.text import decode_prompt

_PROMPT = "> "


class Turns:
    """Standard input by lines: on a terminal behind a prompt, with the line editor there is."""

    def __init__(self) -> None:
        self._number = 0
        self.is_terminal = sys.stdin is not None and sys.stdin.isatty()
        self._edits = self.is_terminal and sys.stdout is not None and sys.stdout.isatty()
        if self._edits:
            with contextlib.suppress(ImportError):  # not on every system
                import readline  # noqa: F401, what input() then reads with

    def read(self) -> str | None:
        """The next line without its end, or None where there is none. Raises ValueError for bytes
        that are not UTF-8."""
        while True:
            try:
                return self._typed() if self.is_terminal else self._piped()
            except KeyboardInterrupt:
                if not self.is_terminal:
                    raise
                click.echo(err=True)  # what was typed is dropped, as a shell does
            except EOFError:
                click.echo(err=True)
                return None

    def _typed(self) -> str:
        if self._edits:
            line = input(_PROMPT)
        else:
            click.echo(_PROMPT, nl=False, err=True)
            line = sys.stdin.readline()
            if not line:
                raise EOFError
        # Bytes that are not UTF-8 come as lone surrogates.
        return self._decoded(line.encode(sys.stdin.encoding, "surrogateescape"))

    def _piped(self) -> str | None:
        line = b"" if sys.stdin is None else sys.stdin.buffer.readline()
        return self._decoded(line) if line else None

    def _decoded(self, line: bytes) -> str:
        self._number += 1
        return decode_prompt(line, f"line {self._number} on standard input")
