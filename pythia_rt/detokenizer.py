"""Token by token to text."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pythia_rt.tokenizer import Tokenizer

# Of a tokenizer that is not byte-level: so many tokens are decoded anew for each piece, and so many
# of them stay when they become too many. What a decoder does at the start of a text (it takes a
# space away) is then far behind.
_MOST_TOKENS, _KEPT_TOKENS = 96, 32


class Detokenizer:
    """Decodes one token at a time; the pieces together equal `Tokenizer.decode` of them all.

    What the next token may still change, such as an unfinished character, is held back.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._tokens: list[int] = []
        self._shown = 0  # characters of their text

    def feed(self, token: int) -> str:
        """The text that `token` completes: empty while a character is unfinished."""
        if self._tokenizer.is_byte_level:
            return self._decoder.decode(self._tokenizer.token_bytes(token))
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
        """The tokens have ended: return what was held back, U+FFFD for bytes of no character."""
        if self._tokenizer.is_byte_level:
            return self._decoder.decode(b"", final=True)
        return self._tokenizer.decode(self._tokens)[self._shown :]
