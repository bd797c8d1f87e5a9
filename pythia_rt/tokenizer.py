"""Text to token ids and back: a thin wrapper over the `tokenizers` library."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import tokenizers

from pythia_rt.convert.text.tokenizer import build_tokenizer, encode, facts_of_tokenizer
from pythia_rt.prompt import whole_number

if TYPE_CHECKING:
    from pythia_rt.convert.flatfile.text_facts import TextFacts

_MAX_ID = (1 << 32) - 1  # the library's ids are unsigned numbers of 32 bits
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


class Tokenizer:
    """The tokenizer of a checkpoint. May be used from several threads.

    `encode` gives the ids that transformers' AutoTokenizer gives for the checkpoint's folder, with
    the tokens that it puts before and after a text, and `decode` shows special tokens as they are
    written. An added token's text is its content; a tokenizer that is not byte-level is decoded as
    the library does it.
    """

    def __init__(self, source: bytes, facts: TextFacts | None = None) -> None:
        """Read `source`, the content of a tokenizer.json. Raises ValueError if it is not one.

        `facts` is what the files beside it say (`FlatFile.text`); without, it speaks for itself.
        """
        self._tokenizer = build_tokenizer(source, facts)
        self._facts = facts_of_tokenizer(self._tokenizer) if facts is None else facts
        self._added = {token["id"]: token["content"] for token in self._facts["added_tokens"]}
        decoder = self._tokenizer.decoder
        self._is_byte_level = isinstance(decoder, tokenizers.decoders.ByteLevel)
        self._has_byte_tokens = "ByteFallback" in _decoder_types(decoder)
        self._bytes: dict[int, bytes] = {}

    @property
    def is_byte_level(self) -> bool:
        """Whether each token is a sequence of bytes, whatever is beside it."""
        return self._is_byte_level

    @property
    def prefix_ids(self) -> list[int]:
        """The ids that `encode` puts before a text, for example that of a BOS token."""
        return list(self._facts["prefix_ids"])

    @property
    def suffix_ids(self) -> list[int]:
        """The ids that `encode` puts after a text."""
        return list(self._facts["suffix_ids"])

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`. Raises ValueError if `text` is not a str of valid Unicode.

        Without `add_special_tokens` nothing is put before or after it; special tokens that are
        written in the text are found all the same.
        """
        if not isinstance(text, str):
            raise ValueError(f"the text must be a str, not {type(text).__name__}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text holds a lone surrogate, U+{ord(text[error.start]):04X}, at character "
                f"{error.start}: it did not come from valid UTF-8, so decode it again or remove it"
            ) from None
        if add_special_tokens:
            return encode(self._tokenizer, self._facts, text)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of `tokens`. Bytes that are not UTF-8 become U+FFFD.

        Ids of no token, negative ones and those of padding rows among them, become nothing. Raises
        ValueError for what is no whole number.
        """
        if not isinstance(tokens, Iterable):
            raise ValueError(f"decode takes token ids in a list, not {tokens!r}")
        if self._is_byte_level:
            return b"".join(map(self.token_bytes, tokens)).decode("utf-8", "replace")
        ids = [token for token in map(whole_number, tokens) if 0 <= token <= _MAX_ID]
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text

    def token_bytes(self, token: int) -> bytes:
        """The bytes one token stands for: often no whole character. Empty for an id of no token.

        For a tokenizer that is not byte-level they are what the token adds to a text that it does
        not start. Raises ValueError for what is no whole number.
        """
        token = whole_number(token)
        known = self._bytes.get(token)
        if known is None:
            known = self._bytes[token] = self._find_bytes(token)
        return known

    def is_byte_token(self, token: int) -> bool:
        """Whether the token is a single byte in a tokenizer of characters, as "<0xE2>"."""
        return self._has_byte_tokens and _BYTE_TOKEN.fullmatch(self.name(token)) is not None

    def name(self, token: int) -> str:
        """The token as the vocabulary spells it; empty for an id of no token."""
        token = whole_number(token)
        named = self._tokenizer.id_to_token(token) if 0 <= token <= _MAX_ID else None
        return named or ""

    def _find_bytes(self, token: int) -> bytes:
        name = self.name(token)
        if self._is_byte_level:
            if token in self._added:  # its content is text, whatever letters it has
                return self._added[token].encode()
            return _bytes_of(name)
        if self.is_byte_token(token):
            return bytes.fromhex(name[3:5])
        once, twice = self.decode([token]), self.decode([token, token])
        return twice[len(once) :].encode()


def _decoder_types(decoder: tokenizers.decoders.Decoder | None) -> set[str]:
    if decoder is None:
        return set()
    section = json.loads(decoder.__getstate__())
    return {str(part.get("type")) for part in section.get("decoders", [section])}


def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 upwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + i): byte for i, byte in enumerate(rest)})
    return alphabet


_BYTE_OF_CHARACTER = _byte_of_character()


def _bytes_of(token: str) -> bytes:
    try:
        return bytes(_BYTE_OF_CHARACTER[character] for character in token)
    except KeyError:  # a token with characters outside the alphabet, which no merge makes
        return token.encode("utf-8")
