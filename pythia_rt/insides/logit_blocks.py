"""Logits of all tokens of texts, a block at a time: never of a whole text together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pythia_rt import _core
from pythia_rt.insides.inputs import Ids
from pythia_rt.insides.values import Floats
from pythia_rt.scoring.windows import cut

if TYPE_CHECKING:
    from pythia_rt.model import Model

_ROWS = 256  # of logits at a time: 51 MB with a vocabulary of 50,000


class Block(NamedTuple):
    """Logits [n, vocab_size] after the tokens of a text from `first` on. They may be changed."""

    text: int
    first: int
    logits: Floats


class _Piece(NamedTuple):
    text: int
    session: _core.Session
    tokens: Ids
    skip: int  # rows that another window has told
    first: int  # of those that are not skipped


def logit_blocks(model: Model, texts: Sequence[Ids], window: int, stride: int) -> Iterator[Block]:
    """Yield the logits after every token of texts but the last one, each once.

    A text longer than a `window` is read in windows that begin anew, as `Model.score` does, each
    of which tells the next `stride` tokens.
    """
    model.file.check_unchanged()
    waiting: list[_Piece] = []
    n_rows = 0
    for piece in _pieces(model, texts, window, stride):
        if waiting and (n_rows + len(piece.tokens) > _ROWS or waiting[-1].session is piece.session):
            yield from _run(waiting)
            waiting, n_rows = [], 0
        waiting.append(piece)
        n_rows += len(piece.tokens)
    yield from _run(waiting)


def _pieces(model: Model, texts: Sequence[Ids], window: int, stride: int) -> Iterator[_Piece]:
    for number, text in enumerate(texts):
        if len(text) < 2:
            continue
        for start, first, stop in cut(len(text), window, stride):
            session = model.new_session(stop - start - 1)
            for begin in range(start, stop - 1, _ROWS):
                tokens = text[begin : min(begin + _ROWS, stop - 1)]
                # Token i is judged by the logits after i - 1.
                skip = min(max(0, first - 1 - begin), len(tokens))
                yield _Piece(number, session, tokens, skip, begin + skip)


def _run(pieces: list[_Piece]) -> Iterator[Block]:
    if not pieces:
        return
    logits = _core.forward([p.session for p in pieces], [p.tokens for p in pieces])
    for piece, rows in zip(pieces, logits, strict=True):
        if piece.skip < len(rows):
            yield Block(piece.text, piece.first, rows[piece.skip :])
