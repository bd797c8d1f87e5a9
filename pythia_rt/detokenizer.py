"""Tokens to text, as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pythia_rt.byte_map import ByteMap
    from pythia_rt.tokenizer import Tokenizer

# Where a token's text depends on others: so many tokens are decoded anew for each piece, and so
# many of them stay when they become too many. What a decoder does at the start of a text (it takes
# a space away) is then far behind.
_MOST_TOKENS, _KEPT_TOKENS = 96, 32


class Detokenizer:
    """Decodes tokens as they come; the pieces together equal `Tokenizer.decode` of them all.

    What the next token may still change, such as an unfinished character, is held back.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        found = tokenizer.byte_map
        self._pieces = _Anew(tokenizer) if found is None else _Bytes(tokenizer, found)

    def feed(self, token: int) -> str:
        """The text that `token` completes: empty while a character is unfinished."""
        return self._pieces.feed([token])

    def feed_many(self, tokens: list[int]) -> str:
        """The text that these complete."""
        return self._pieces.feed(tokens)

    def flush(self) -> str:
        """The tokens have ended: return what was held back, U+FFFD for bytes of no character."""
        return self._pieces.flush()


class _Bytes:
    """Of tokens that are bytes, whatever is beside them."""

    def __init__(self, tokenizer: Tokenizer, byte_map: ByteMap) -> None:
        self._bytes_of = tokenizer.token_bytes
        self._decoder = byte_map.decoder()
        self._spaces = byte_map.leading_spaces  # that may still be taken away

    def feed(self, tokens: list[int]) -> str:
        content = b"".join(map(self._bytes_of, tokens))
        while self._spaces and content:
            if not content.startswith(b" "):
                self._spaces = 0
                break
            content = content[1:]
            self._spaces -= 1
        return self._decoder.decode(content)

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class _Anew:
    """Of tokens that the library alone can decode, together."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._shown = 0  # characters of their text

    def feed(self, tokens: list[int]) -> str:
        return "".join(map(self._feed, tokens))

    def _feed(self, token: int) -> str:
        if not self._tokenizer.name(token):
            return ""
        self._tokens.append(token)
        if self._tokenizer.is_byte_token(token):
            return ""  # the bytes after it may make all of them a character, or none
        text = self._tokenizer.decode(self._tokens)
        if text.endswith("\ufffd"):
            return ""
        piece = text[self._shown :]
        self._shown = max(self._shown, len(text))
        if len(self._tokens) > _MOST_TOKENS:
            self._tokens = self._tokens[-_KEPT_TOKENS:]
            self._shown = len(self._tokenizer.decode(self._tokens))
        return piece

    def flush(self) -> str:
        return self._tokenizer.decode(self._tokens)[self._shown :]
