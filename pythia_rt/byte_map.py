"""What bytes a token stands for, where a tokenizer's decoder gives each token its own.

Two kinds do: GPT-2's, whose letters are bytes, and sentencepiece's, where U+2581 is a space and
"<0xE2>" a byte.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import tokenizers

from pythia_rt.convert.text.byte_level import ALPHABET

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # a byte among tokens of characters


class ByteMap(NamedTuple):
    """How names of tokens become text: the bytes of all together, as UTF-8."""

    bytes_of: Callable[[str], bytes]
    is_byte_level: bool  # GPT-2's kind
    leading_spaces: int  # that are taken away where a text begins with them
    errors: str  # what the codec makes of bytes that are no character
    replaced: tuple[tuple[str, str], ...] = ()  # in a name, and what for

    def names_with(self, character: str, names: list[str]) -> list[int]:
        """Numbers of the names whose bytes may hold the last byte of a character: all that do, and
        maybe more."""
        last = character.encode()[-1]
        if self.is_byte_level:
            letter = ALPHABET[last]  # a name outside the alphabet stands for its characters
            return [i for i, name in enumerate(names) if letter in name or character in name]
        texts = names
        for old, new in self.replaced:
            texts = [text.replace(old, new) for text in texts]
        byte = f"<0x{last:02x}>"
        return [
            i
            for i, (text, name) in enumerate(zip(texts, names, strict=True))
            if character in text or name.lower() == byte
        ]

    def decoder(self) -> codecs.IncrementalDecoder:
        """What makes text of bytes that come bit by bit."""
        return codecs.getincrementaldecoder("utf-8")(self.errors)


def find_byte_map(decoder: tokenizers.decoders.Decoder | None) -> ByteMap | None:
    """The map that a tokenizer's decoder is; None where what a token is depends on others."""
    parts = list_decoders(decoder)
    if [part["type"] for part in parts] == ["ByteLevel"]:
        return ByteMap(_byte_level, True, 0, "replace")
    return _sentencepiece(parts)


def list_decoders(decoder: tokenizers.decoders.Decoder | None) -> list[dict[str, Any]]:
    """The sections of what a decoder does, one after another."""
    if decoder is None:
        return []
    section = json.loads(decoder.__getstate__())
    return list(section["decoders"]) if section["type"] == "Sequence" else [section]


def _sentencepiece(parts: list[dict[str, Any]]) -> ByteMap | None:
    """The map of decoders that do these steps, in this order; others have none."""
    rest = [*parts]
    replaced: list[tuple[str, str]] = []
    while rest and rest[0]["type"] == "Replace" and "String" in rest[0]["pattern"]:
        part = rest.pop(0)
        replaced.append((part["pattern"]["String"], part["content"]))
    has_bytes = bool(rest) and rest[0]["type"] == "ByteFallback"
    rest = rest[has_bytes:]
    spaces = 0
    if rest and rest.pop(0)["type"] != "Fuse":
        return None
    if rest and rest[0]["type"] == "Strip" and (rest[0]["content"], rest[0]["stop"]) == (" ", 0):
        spaces = rest.pop(0)["start"]
    if rest or not (replaced or has_bytes):
        return None

    def bytes_of(name: str) -> bytes:
        for old, new in replaced:
            name = name.replace(old, new)
        byte = BYTE_TOKEN.fullmatch(name) if has_bytes else None
        return bytes.fromhex(byte[1]) if byte else name.encode("utf-8")

    return ByteMap(bytes_of, False, spaces, _EACH_BYTE, tuple(replaced))


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    """U+FFFD for each byte, as sentencepiece has it, and not for each run of them."""
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


_EACH_BYTE = "pythia_rt.replace_each_byte"
codecs.register_error(_EACH_BYTE, _replace_each_byte)


_BYTE_OF_CHARACTER = {character: byte for byte, character in enumerate(ALPHABET)}


def _byte_level(name: str) -> bytes:
    try:
        return bytes(_BYTE_OF_CHARACTER[character] for character in name)
    except KeyError:  # a token with characters outside the alphabet, which no merge makes
        return name.encode("utf-8")
