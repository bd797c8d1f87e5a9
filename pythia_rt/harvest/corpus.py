"""From texts to windows: what the model reads at once, each on its own."""

from __future__ import annotations

import bisect
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pythia_rt.convert.files.text import check_text_file, decode_text, read_text_file
from pythia_rt.options import flag, integer, whole_number_from
from pythia_rt.prompt import Prompt, no_tokenizer, token_ids

if TYPE_CHECKING:
    from pythia_rt.model import Model

Ids = NDArray[np.int32]
Text = Prompt | os.PathLike[str]

DEFAULT_CONTEXT = 512
# The tokenizer library takes 190 bytes for each byte of text: characters that it gets at a time.
_PIECE = 1 << 20
# Between two words: tokenizers split there, so the tokens are those of the whole. Those few that do
# not say so (`joins_words`).
_BOUNDARY = re.compile(r"(?<=[^\W\d_]) (?=[^\W\d_])")


@dataclass(frozen=True)
class Cut:
    """How texts become windows. See `harvest`."""

    context: int
    bos: int | None  # stands before each window
    end: int | None  # of texts that are joined: stands behind each of them
    max_tokens: int | None  # of all windows together

    @property
    def step(self) -> int:
        """Tokens of a text in a full window."""
        return self.context - (self.bos is not None)


def read_cut(
    model: Model, context: int | None, *, prepend_bos: bool, joined: bool, max_tokens: int | None
) -> Cut:
    """How a model's texts are cut. Raises ValueError for what it cannot be."""
    most = model.max_positions
    context = min(DEFAULT_CONTEXT, most) if context is None else context
    context, max_tokens = checked_cut(
        context, most, prepend_bos=prepend_bos, joined=joined, max_tokens=max_tokens
    )
    ends = model.spec["eos_ids"]
    if joined and not ends:
        raise ValueError("joined texts have an end token between them, and this model has none")
    bos = model.spec["bos_id"] if prepend_bos else None
    return Cut(context, bos, ends[0] if joined else None, max_tokens)


def checked_cut(
    context: int, most: int | None, *, prepend_bos: bool, joined: bool, max_tokens: int | None
) -> tuple[int, int | None]:
    """`context`, of at most so many tokens where that is known, and `max_tokens`; raises
    ValueError."""
    flag("prepend_bos", prepend_bos)
    flag("joined", joined)
    least = 1 + prepend_bos
    if most is None:
        context = integer(lambda n: n >= least, f"{least} or more tokens")("context", context)
    else:
        context = whole_number_from(least, most, "tokens")("context", context)
    if max_tokens is not None:
        max_tokens = whole_number_from(1, 1 << 62, "tokens")("max_tokens", max_tokens)
    return context, max_tokens


def check_texts(texts: object) -> None:
    """Raise ValueError for what is no list of texts, nor an iterator of them."""
    if isinstance(texts, (str, bytes, os.PathLike, np.ndarray)) or not isinstance(texts, Iterable):
        raise ValueError("texts must be a list of texts or paths: for a single one, a list of it")


def read_documents(model: Model, texts: Iterable[Text], cut: Cut) -> Iterator[tuple[Ids, Path]]:
    """Yield the tokens of each document, int32 [n], and the file that it is in, Path() for none.

    Where nothing else says what a text begins with, its tokenizer's tokens do. Raises ValueError
    for what is no text and what is not UTF-8, OSError for a file that cannot be read.
    """
    check_texts(texts)
    special = cut.bos is None and cut.end is None
    for number, text in enumerate(texts, 1):
        path = Path(text).expanduser() if isinstance(text, os.PathLike) else Path()
        alone = [(f"text {number}", text)]
        for where, document in _in_file(path) if isinstance(text, os.PathLike) else alone:
            try:
                ids = _encoded(model, document, special=special)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
            yield ids, path


class Window(NamedTuple):
    """Tokens that the model reads on their own, and the places in it where documents begin."""

    ids: Ids
    starts: list[int]


def windows_of(documents: Iterable[Ids], cut: Cut) -> Iterator[Window]:
    """Yield the windows, of at most `cut.context` tokens, of documents apart or joined."""
    left = cut.max_tokens
    for ids, starts in _joined(documents, cut) if cut.end is not None else _apart(documents, cut):
        if cut.bos is not None:
            # A document that begins with the window begins with its BOS token.
            ids = np.concatenate([np.array([cut.bos], np.int32), ids])
            starts = [start + (start > 0) for start in starts]
        ids = ids[:left]
        yield Window(ids, [start for start in starts if start < len(ids)])
        if left is not None:
            left -= len(ids)
            if left == 0:
                return


def _apart(documents: Iterable[Ids], cut: Cut) -> Iterator[Window]:
    n_empty = 0
    for ids in documents:
        n_empty += 1
        for start in range(0, len(ids), cut.step):
            yield Window(ids[start : start + cut.step], [0] * n_empty)
            n_empty = 0


def _joined(documents: Iterable[Ids], cut: Cut) -> Iterator[Window]:
    held, starts = np.zeros(0, np.int32), list[int]()
    for ids in documents:
        starts.append(len(held))
        held = np.concatenate([held, ids, np.array([cut.end], np.int32)])
        while len(held) >= cut.step:
            n_starts = bisect.bisect_left(starts, cut.step)
            yield Window(held[: cut.step], starts[:n_starts])
            held = held[cut.step :]
            starts = [start - cut.step for start in starts[n_starts:]]
    if len(held):
        yield Window(held, starts)


def _in_file(path: Path) -> Iterator[tuple[str, str]]:
    """Where documents are in a file, and they: of .jsonl the "text" of each line, else all."""
    if path.suffix != ".jsonl":
        yield str(path), read_text_file(path)
        return
    check_text_file(path)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"line {number} of {path}"
            text = decode_text(line, where)
            try:
                document = json.loads(text)["text"]
                if not isinstance(document, str):
                    raise TypeError
            except (ValueError, KeyError, TypeError, RecursionError):
                raise ValueError(f'{where} is no JSON object with a "text"') from None
            yield where, document


def _encoded(model: Model, text: Any, *, special: bool) -> Ids:
    tokenizer = model.tokenizer
    if not isinstance(text, str):
        return model._ids(text)
    if tokenizer is None:
        raise no_tokenizer("give texts as token ids")
    if len(text) <= _PIECE or tokenizer.joins_words:
        ids = tokenizer.encode(text, add_special_tokens=special)
    else:
        ids = list(tokenizer.prefix_ids) if special else []
        start = 0
        while start < len(text):
            found = _BOUNDARY.search(text, start + _PIECE)
            end = found.start() if found else len(text)
            piece = text[start:end]
            ids += tokenizer.encode(piece, add_special_tokens=False, continues=start > 0)
            start = end
        ids += tokenizer.suffix_ids if special else []
    return token_ids(ids, None, model._vocab_size) if ids else np.zeros(0, np.int32)
