"""Text to token ids and back: a thin wrapper over the `tokenizers` library."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

import tokenizers


class Tokenizer:
    """The byte-level BPE tokenizer of a checkpoint. May be used from several threads.

    `encode` adds no special tokens (Pythia has no BOS), and `decode` shows special tokens as they
    are written; both agree with transformers' fast tokenizer for the same tokenizer.json.
    """

    def __init__(self, source: bytes) -> None:
        """Read `source`, the content of a tokenizer.json. Raises ValueError if it is not one."""
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(source.decode("utf-8"))
        except Exception as error:  # the library raises bare Exception
            reason = " ".join(str(error).split())
            raise ValueError(f"the tokenizer.json cannot be read: {reason}") from error
        if not isinstance(self._tokenizer.decoder, tokenizers.decoders.ByteLevel):
            raise ValueError(
                "the tokenizer.json has no byte-level decoder: "
                "only byte-level BPE, as GPT-NeoX checkpoints use it, is supported"
            )
        # Some fine-tunes ship limits meant for training; a prompt is never cut or filled up here.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._bytes: dict[int, bytes] = {}

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`. Raises ValueError if `text` is not a str of valid Unicode."""
        if not isinstance(text, str):
            raise ValueError(f"the text must be a str, not {type(text).__name__}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text holds a lone surrogate, U+{ord(text[error.start]):04X}, at character "
                f"{error.start}: it did not come from valid UTF-8, so decode it again or remove it"
            ) from None
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of `tokens`. Bytes that are not UTF-8 become U+FFFD; unknown ids become nothing."""
        return b"".join(self.token_bytes(token) for token in tokens).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes one token stands for: often no whole character. Empty for an unknown id."""
        known = self._bytes.get(token)
        if known is None:
            known = self._bytes[token] = _bytes_of(self._tokenizer.id_to_token(token) or "")
        return known


class Detokenizer:
    """Decodes one token at a time; the pieces together equal `Tokenizer.decode` of them all.

    Bytes of an unfinished character are held back, so a piece never holds half of one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """The text that `token` completes: empty while a character is unfinished."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def flush(self) -> str:
        """The tokens have ended: return U+FFFD for bytes of a character that was never finished."""
        return self._decoder.decode(b"", final=True)


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
    except KeyError:  # an added token with characters outside the alphabet, such as runs of spaces
        return token.encode("utf-8")
