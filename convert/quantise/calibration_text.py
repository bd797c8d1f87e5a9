"""The text of a calibration becomes sequences of token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError, Sentence
from ..files.text import read_text_file
from ..flatfile.layout import TOKENIZER_FILE
from ..flatfile.spec import Spec

Text = str | Path | Iterable[int] | NDArray[np.integer[Any]]

DEFAULT_TOKENS = 16384
SEQUENCE = 512  # tokens; models with a shorter context get that many
# Of the text for each token that is used: the rest of a longer text is not looked at, since
# tokenizing takes 200 times its size in memory.
_CHARACTERS_PER_TOKEN = 64


class CalibrationText(NamedTuple):
    """What to calibrate with: `content` is text or ids int64 [n], of which `tokens` are used."""

    content: str | NDArray[np.int64]
    tokens: int

    def describe(self, sequences: list[NDArray[np.int32]]) -> str:
        """Return what the recipe records: how many tokens of which text were used.

        The text is named by the first 8 digits of the SHA-256 of its UTF-8 or, for token ids, of
        their 4 little-endian bytes each.
        """
        content = self.content
        data = content.encode() if isinstance(content, str) else content.astype("<i4").tobytes()
        used = sum(len(sequence) for sequence in sequences)
        return f"calibrated={used} tokens of {hashlib.sha256(data).hexdigest()[:8]}"

    def sequences(
        self, spec: Spec, encode: Callable[[str], list[int]] | None
    ) -> list[NDArray[np.int32]]:
        """Return the sequences, int32 [at least 2] each, spread evenly over the text.

        `encode` turns a text into ids, None without a tokenizer. Raises CheckpointError when there
        is none and the content is text, ValueError for ids out of range or fewer than two tokens.
        """
        ids = self._encode(self.content, encode) if isinstance(self.content, str) else self.content
        if ids.size and not (ids.min() >= 0 and ids.max() < spec["vocab_size"]):
            raise ValueError(
                f"the calibration's token ids must lie between 0 and {spec['vocab_size'] - 1}, "
                f"not {ids.min()} and {ids.max()}: use the ids of this model's tokenizer"
            )
        if len(ids) < 2:
            raise ValueError(
                f"the calibration text has {len(ids)} of the 2 tokens that it needs at least: "
                "give a longer one"
            )
        length = min(SEQUENCE, spec["max_positions"], self.tokens, len(ids))
        starts = range(0, len(ids) - 1, length)  # a last token alone is left out
        count = self.tokens // length
        if len(starts) > count:
            # Only whole sequences.
            whole = len(ids) // length
            starts = range(0, whole * length, length)
            chosen = np.linspace(0, whole - 1, count).round().astype(int)
        else:
            chosen = np.arange(len(starts))
        return [ids[starts[i] : starts[i] + length].astype(np.int32) for i in chosen]

    def _encode(self, text: str, encode: Callable[[str], list[int]] | None) -> NDArray[np.int64]:
        if encode is None:
            missing = f"the checkpoint has no {TOKENIZER_FILE}, which a calibration text needs"
            raise CheckpointError(
                Sentence(
                    f"{missing}: add it, or calibrate with token ids",
                    f"{missing}: add it, or leave --calibrate out",
                )
            )
        return np.array(encode(text[: self.tokens * _CHARACTERS_PER_TOKEN]), np.int64)


def read_calibration(text: Text, tokens: int | None) -> CalibrationText:
    """Check what was given to calibrate with, and read it if it is a file.

    A str is text, a Path a file of UTF-8, anything else token ids. Raises ValueError for an empty
    text, a file that is not UTF-8, ids that are not whole numbers and fewer than 2 `tokens`;
    OSError for a file that cannot be read.
    """
    tokens = DEFAULT_TOKENS if tokens is None else tokens
    if tokens < 2:
        raise ValueError(f"a calibration needs at least 2 tokens, not {tokens}: ask for more")
    if isinstance(text, str | Path):
        where = f"{text}" if isinstance(text, Path) else "the calibration text"
        content = read_text_file(text) if isinstance(text, Path) else text
        if not content:
            raise ValueError(f"{where} is empty: give a text of at least two tokens")
        try:
            content.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{where} has a lone surrogate: decode it from UTF-8 again") from None
        return CalibrationText(content, tokens)
    ids = np.asarray(text if isinstance(text, np.ndarray) else list(text))
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise ValueError("the calibration's token ids must be a flat sequence of whole numbers")
    return CalibrationText(ids.astype(np.int64), tokens)
