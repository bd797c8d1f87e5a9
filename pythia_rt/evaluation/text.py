"""The text to measure on becomes token ids, whether it comes as a str, as ids or as a file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt.convert.files.text import check_text_file, decode_text, read_text_file
from pythia_rt.memory import usable_memory
from pythia_rt.prompt import no_tokenizer, token_ids
from pythia_rt.tokenizer import Tokenizer

Text = str | os.PathLike[str] | Iterable[int] | NDArray[np.integer[Any]]

# What the tokenizer library takes while it encodes, measured: 190 bytes for each byte of text.
MEMORY_PER_BYTE = 200
_FIRST_BYTES_PER_TOKEN = 8  # more than most texts have; if it is not enough, more is read
_FIRST_BYTES_OF_PIPE = 1 << 20
# Between two words: tokenizers split there, so the text before it has the same tokens whatever
# follows. Those few that do not say so (`joins_words`).
_BOUNDARY = re.compile(r"(?<=[^\W\d_]) (?=[^\W\d_])")


def read_tokens(
    text: Text, tokenizer: Tokenizer | None, vocab_size: int, max_tokens: int | None
) -> NDArray[np.int32]:
    """Token ids of `text`, the first `max_tokens` of them: int32 [n], n >= 2.

    A str is text, a path object (not a str) a file of UTF-8 (convert/files/text.py), of which
    only as much is read as `max_tokens` needs. The tokens that the tokenizer puts before and after
    a text are there once, not in every window. Raises ValueError for ids out of range, for fewer
    than two tokens, for a file that is not UTF-8 or too long for the memory, for text when there is
    no tokenizer; OSError for a file that cannot be read.
    """
    where = "the text"
    if isinstance(text, os.PathLike):
        path = Path(text).expanduser()
        where = str(path)
        if tokenizer is None:
            raise no_tokenizer("give the text as token ids")
        if max_tokens is None or tokenizer.joins_words:
            text = read_text(path)
        else:
            text = _read_start(path, tokenizer, max_tokens)
    ids = token_ids(text, tokenizer, vocab_size)[:max_tokens]
    if len(ids) < 2:
        raise ValueError(f"{where} has only one token, which predicts nothing: give a longer one")
    return ids


def read_text(path: Path, *, can_cut: bool = True) -> str:
    """The whole text of a file; raises as `read_tokens` does.

    `can_cut` says that the caller has max_tokens to take its start with.
    """
    check_text_file(path)
    _check_memory(path, path.stat().st_size, can_cut=can_cut)
    return _not_empty(path, read_text_file(path))


def available_memory() -> int:
    """Bytes that can be had without swapping, as far as the system says."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return usable_memory()


def _read_start(path: Path, tokenizer: Tokenizer, max_tokens: int) -> str:
    """The start of a file that has `max_tokens` tokens, or all of it."""
    check_text_file(path)
    content = b""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size  # 0 for a pipe
        # read() reserves what it is asked for, so never much more than there is.
        wanted = min(max_tokens * _FIRST_BYTES_PER_TOKEN, max(size + 1, _FIRST_BYTES_OF_PIPE))
        while True:
            _check_memory(path, min(wanted, size))
            content += file.read(wanted - len(content))
            if len(content) < wanted:
                return _not_empty(path, decode_text(content, str(path)))
            text = decode_text(content, str(path), complete=False)
            end = max((match.start() for match in _BOUNDARY.finditer(text)), default=0)
            if end and len(tokenizer.encode(text[:end], add_special_tokens=False)) >= max_tokens:
                return text[:end]
            wanted *= 2


def _not_empty(path: Path, text: str) -> str:
    if not text:
        raise ValueError(f"{path} is empty: give a text of at least two tokens")
    return text


def _check_memory(path: Path, size: int, *, can_cut: bool = True) -> None:
    available = available_memory()
    if size * MEMORY_PER_BYTE > available:
        raise ValueError(
            f"{path} has {size / 1e6:.0f} MB of text to read, which takes up to {MEMORY_PER_BYTE} "
            f"times as much memory, and {available / 1e6:.0f} MB are free: give a shorter text"
            + (", or take its start with max_tokens" if can_cut else "")
        )
