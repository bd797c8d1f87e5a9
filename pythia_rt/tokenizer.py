"""Text to token ids and back: a thin wrapper over the `tokenizers` library."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

import tokenizers

from pythia_rt.byte_map import BYTE_TOKEN, find_byte_map, list_decoders
from pythia_rt.continued import continuing_tokenizer
from pythia_rt.convert.text.tokenizer import build_tokenizer, encode, facts_of_tokenizer
from pythia_rt.prompt import whole_number

if TYPE_CHECKING:
    from pythia_rt.byte_map import ByteMap
    from pythia_rt.convert.flatfile.text_facts import TextFacts

_MAX_ID = (1 << 32) - 1  # the library's ids are unsigned numbers of 32 bits
# A space behind something in the name of a token: itself, as GPT-2's spell it, as sentencepiece's.
_SPACE_BEHIND = re.compile(r"[^ \u0120\u2581][ \u0120\u2581]")
_LETTER_AND_SPACE = re.compile(r"(?:[^\W\d_]|\ufffd) ")  # U+FFFD: the end of some character


class Tokenizer:
    """The tokenizer of a checkpoint. May be used from several threads.

    `encode` gives the ids that transformers' AutoTokenizer gives for the checkpoint's folder, with
    the tokens that it puts before and after a text, and `decode` shows special tokens as they are
    written. A text that begins with such a token gets it once more, as there: leave it to `encode`,
    or pass add_special_tokens=False.

    Tokens are bytes in tokenizers of GPT-2's kind and of sentencepiece's, with "<0xE2>" for a byte
    and U+2581 for a space; an added token's text is its content. In the latter kind a text loses
    the space that `encode` put before it, once, at its start, and bytes that are no UTF-8 become
    U+FFFD one by one, as in sentencepiece itself; transformers gives up the whole characters beside
    them too. All others are decoded as the library does it.
    """

    def __init__(self, source: bytes, facts: TextFacts | None = None) -> None:
        """Read `source`, the content of a tokenizer.json. Raises ValueError if it is not one.

        `facts` is what the files beside it say (`FlatFile.text`); without, it speaks for itself.
        """
        self._tokenizer = build_tokenizer(source, facts)
        self._facts = facts_of_tokenizer(self._tokenizer) if facts is None else facts
        self._added = {token["id"]: token["content"] for token in self._facts["added_tokens"]}
        decoder = self._tokenizer.decoder
        self._map = find_byte_map(decoder)
        self._has_byte_tokens = any(p["type"] == "ByteFallback" for p in list_decoders(decoder))
        self._bytes: dict[int, bytes] = {}
        self._completing: dict[str, list[int]] = {}

    @property
    def is_byte_level(self) -> bool:
        """Whether it is of GPT-2's kind: the letters of its tokens are bytes."""
        return self._map is not None and self._map.is_byte_level

    @property
    def byte_map(self) -> ByteMap | None:
        """How its tokens become text; None where what a token adds depends on those beside it."""
        return self._map

    @property
    def prefix_ids(self) -> list[int]:
        """The ids that `encode` puts before a text, for example that of a BOS token."""
        return list(self._facts["prefix_ids"])

    @property
    def suffix_ids(self) -> list[int]:
        """The ids that `encode` puts after a text."""
        return list(self._facts["suffix_ids"])

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids of special tokens: those that stand for no text, such as BOS and end tokens."""
        return frozenset(t["id"] for t in self._facts["added_tokens"] if t["special"])

    def encode(
        self, text: str, add_special_tokens: bool = True, *, continues: bool = False
    ) -> list[int]:
        """Token ids of `text`. Raises ValueError if `text` is not a str of valid Unicode.

        Without `add_special_tokens` no token is put before or after it; special tokens that are
        written in the text are found all the same. With `continues` it follows another text:
        besides, no space is put before it, as many tokenizers do, nor taken away.
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
        if add_special_tokens and not continues:
            return encode(self._tokenizer, self._facts, text)
        tokenizer = self._continuing if continues else self._tokenizer
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_as_text(self, text: str) -> list[int]:
        """Token ids of a `text` that follows another, in which special tokens are mere text."""
        ids: list[int] = self._as_text.encode(text, add_special_tokens=False).ids
        return ids

    def token_id(self, name: str) -> int | None:
        """The id of the token that the vocabulary spells so; None where there is none."""
        found: int | None = self._tokenizer.token_to_id(name)
        return found

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of `tokens`. Bytes that are not UTF-8 become U+FFFD (see the class).

        Ids of no token, negative ones and those of padding rows among them, become nothing. Raises
        ValueError for what is no whole number.
        """
        if not isinstance(tokens, Iterable):
            raise ValueError(f"decode takes token ids in a list, not {tokens!r}")
        if self._map is not None:
            content = b"".join(map(self.token_bytes, tokens))
            spaces = len(content) - len(content.lstrip(b" "))
            cut = min(spaces, self._map.leading_spaces)
            return content[cut:].decode("utf-8", self._map.errors)
        ids = [token for token in map(whole_number, tokens) if 0 <= token <= _MAX_ID]
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text

    def token_bytes(self, token: int) -> bytes:
        """The bytes one token stands for: often no whole character. Empty for an id of no token.

        They are what the token adds to a text that it does not start: there it keeps its space.
        Raises ValueError for what is no whole number.
        """
        token = whole_number(token)
        known = self._bytes.get(token)
        if known is None:
            known = self._bytes[token] = self._find_bytes(token)
        return known

    def ids_completing(self, character: str) -> list[int] | None:
        """The ids with which this character may come to its end in a text: all of those, and maybe
        more. None where any may, since what a token adds depends on those beside it."""
        if self._map is None or character == "\ufffd":
            return None
        known = self._completing.get(character)
        if known is None:
            vocabulary = self.vocabulary
            ids = list(vocabulary.values())
            found = [ids[i] for i in self._map.names_with(character, list(vocabulary))]
            found += [token for token, text in self._added.items() if character in text]
            known = self._completing[character] = found
        return known

    @property
    def vocabulary(self) -> dict[str, int]:
        """Names of tokens and their ids, those of added tokens included."""
        found: dict[str, int] = self._tokenizer.get_vocab()
        return found

    def is_byte_token(self, token: int) -> bool:
        """Whether the token is a single byte in a tokenizer of characters, as "<0xE2>"."""
        return self._has_byte_tokens and BYTE_TOKEN.fullmatch(self.name(token)) is not None

    def name(self, token: int) -> str:
        """The token as the vocabulary spells it; empty for an id of no token."""
        token = whole_number(token)
        named = self._tokenizer.id_to_token(token) if 0 <= token <= _MAX_ID else None
        return named or ""

    @cached_property
    def joins_words(self) -> bool:
        """Whether a token has a letter and a space behind it: words may not be cut apart."""
        found = self.vocabulary.items()
        texts = [
            self.token_bytes(i).decode("utf-8", "replace")
            for name, i in found
            if _SPACE_BEHIND.search(name)
        ]
        return any(map(_LETTER_AND_SPACE.search, texts))

    @cached_property
    def _continuing(self) -> tokenizers.Tokenizer:
        return continuing_tokenizer(self._tokenizer)

    @cached_property
    def _as_text(self) -> tokenizers.Tokenizer:
        tokenizer = tokenizers.Tokenizer.from_str(self._continuing.to_str())
        tokenizer.encode_special_tokens = True
        return tokenizer

    def _find_bytes(self, token: int) -> bytes:
        if self._map is not None:
            if self._map.is_byte_level and token in self._added:
                return self._added[token].encode()  # it is text, whatever letters it has
            return self._map.bytes_of(self.name(token))
        if self.is_byte_token(token):
            return bytes.fromhex(self.name(token)[3:5])
        once, twice = self.decode([token]), self.decode([token, token])
        return twice[len(once) :].encode()
