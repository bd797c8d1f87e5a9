"""Where a command's prompt comes from, and token ids in decimal."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from pythia_rt.convert.files.text import decode_prompt, decode_text, read_text_file


def read_prompt(prompt: str | None, file: str | None) -> str:
    """The prompt of the command line, of `file`, or of standard input for neither and for "-".

    Raises ValueError for one that is not UTF-8, OSError for a file that cannot be read, UsageError
    where nobody gave one.
    """
    if file not in (None, "-"):
        return read_text_file(Path(str(file)), decode_prompt)
    if prompt in (None, "-"):
        if sys.stdin is None or sys.stdin.isatty():
            raise click.UsageError("Give a PROMPT, or pipe one into standard input.")
        return decode_prompt(sys.stdin.buffer.read(), "the prompt on standard input")
    try:
        str(prompt).encode()
    except UnicodeEncodeError:  # bytes that Python could not decode
        decode_text(os.fsencode(str(prompt)), "the prompt")
        raise
    return str(prompt)


def parse_ids(text: str) -> list[int]:
    """Token ids in decimal, between blanks or commas. Raises ValueError for anything else."""
    words = text.replace(",", " ").split()
    for word in words:
        if not (word.isascii() and word.isdigit()) or len(word) > 20:
            raise ValueError(f"token ids are whole numbers in decimal, not {word[:40]!r}")
    return [int(word) for word in words]
