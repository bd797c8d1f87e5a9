"""Reads tokenizer.model, the protocol buffer in which sentencepiece keeps a tokenizer.

Source: google/sentencepiece, src/sentencepiece_model.proto, whose numbers of fields stand here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from ..errors import CheckpointError
from ..flatfile.layout import SENTENCEPIECE_FILE

_MAX_PIECES = 1 << 24
_TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+=* [0-9]+\r?\n")  # a line of the other format of this name
_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}  # wire types of so many bytes


class Algorithm(IntEnum):
    """How a text is cut into pieces."""

    UNIGRAM = 1
    BPE = 2
    WORD = 3
    CHAR = 4


class Kind(IntEnum):
    """What a piece is."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Piece(NamedTuple):
    """A token; its id is its place among the pieces."""

    text: str
    score: float
    kind: Kind


class SentencePieceModel(NamedTuple):
    """What of a tokenizer.model says how it encodes."""

    pieces: list[Piece]
    algorithm: Algorithm
    byte_fallback: bool
    named: dict[str, tuple[int, str]]  # "bos" and so on: id, below 0 for none, and piece
    charsmap: bytes  # of the normalizer, compiled; empty for none
    add_dummy_prefix: bool  # a space before a text
    remove_extra_whitespaces: bool
    escape_whitespaces: bool  # a space becomes U+2581


def is_ranks(content: bytes) -> bool:
    """Whether a tokenizer.model is none of sentencepiece's but a list of tiktoken's."""
    return _TIKTOKEN.match(content) is not None


def read_sentencepiece(content: bytes) -> SentencePieceModel:
    """Return the model in a tokenizer.model. Raises CheckpointError for anything else."""
    if is_ranks(content):
        raise CheckpointError(
            f"{SENTENCEPIECE_FILE} is a list of tiktoken's, not a model of sentencepiece: put the "
            "tokenizer.json of the same tokenizer beside it"
        )
    try:
        return _read_model(content)
    except (ValueError, struct.error):
        raise CheckpointError(
            f"{SENTENCEPIECE_FILE} is damaged or no model of sentencepiece: fetch it again"
        ) from None


def _read_model(content: bytes) -> SentencePieceModel:
    pieces: list[Piece] = []
    trainer = normalizer = b""
    for number, value in _fields(content):
        if number == 1:
            pieces.append(_read_piece(_bytes(value)))
            if len(pieces) > _MAX_PIECES:
                raise ValueError
        elif number == 2:
            trainer += _bytes(value)  # a message in several parts is their sequence
        elif number == 3:
            normalizer += _bytes(value)
    training, normalizing = dict(_fields(trainer)), dict(_fields(normalizer))
    if not pieces or _int(training.get(24, 0)):  # treat_whitespace_as_suffix, which nobody uses
        raise ValueError
    return SentencePieceModel(
        pieces,
        Algorithm(_int(training.get(3, Algorithm.UNIGRAM))),
        bool(_int(training.get(35, 0))),
        {
            name: (
                _int(training.get(40 + i, i)),
                _bytes(training.get(45 + i, text)).decode(),
            )
            for i, (name, text) in enumerate([("unk", b"<unk>"), ("bos", b"<s>"), ("eos", b"</s>")])
        },
        _bytes(normalizing.get(2, b"")),
        bool(_int(normalizing.get(3, 1))),
        bool(_int(normalizing.get(4, 1))),
        bool(_int(normalizing.get(5, 1))),
    )


def _read_piece(content: bytes) -> Piece:
    fields = dict(_fields(content))
    score = struct.unpack("<f", _bytes(fields.get(2, bytes(4))))[0]
    return Piece(_bytes(fields.get(1)).decode(), score, Kind(_int(fields.get(3, Kind.NORMAL))))


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the number and the value of every field. Raises ValueError for what is no message."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(content, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(content, at)
        else:
            size = _FIXED.get(wire, len(content))
        if size > len(content) - at:
            raise ValueError
        yield number, content[at : at + size]
        at += size


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins at `at`, seven bits a byte, and where it ends."""
    value = 0
    for i, byte in enumerate(content[at : at + 10]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise ValueError


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError
    return value


def _int(value: object) -> int:
    """Return a field's whole number, which may be below 0: it has 64 bits."""
    if not isinstance(value, int) or value >= 1 << 64:
        raise ValueError
    return value - (1 << 64) if value >= 1 << 63 else value
