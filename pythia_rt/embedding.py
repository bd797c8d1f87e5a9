"""What a `Model` does with texts as wholes: the hidden states before its head, pooled."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core
from pythia_rt.convert.flatfile import FlatFile
from pythia_rt.options import flag, one_of
from pythia_rt.together import n_together

if TYPE_CHECKING:
    from pythia_rt.prompt import Prompt

Floats = NDArray[np.float32]
POOLINGS = ("mean", "last")


class Embedding:
    """Methods of `Model`."""

    if TYPE_CHECKING:
        _core: _core.Model
        _kv_format: str

        @property
        def file(self) -> FlatFile: ...

        def _ids(self, prompt: Prompt) -> NDArray[np.int32]: ...

        def _check_length(self, n_tokens: int) -> None: ...

        def _not_finite(self, tokens: NDArray[np.int32]) -> RuntimeError: ...

    def embed(
        self, texts: Iterable[Prompt], *, pooling: str = "mean", normalise: bool = False
    ) -> Floats:
        """What the model makes of texts (each a str, or token ids): float32 [texts, hidden_size].

        The hidden states after the final norm, transformers' `last_hidden_state`, are pooled over
        the tokens of a text: their mean, or the "last" one, which alone has seen them all. With
        `normalise` each row has the length 1. Short texts share passes through the model, and its
        head does not run; a text's row is the same to the bit whatever the others are.

        Raises ValueError, before any text is read, for a bad argument, an empty text, ids outside
        the vocabulary and a text that does not fit into the context; RuntimeError where numbers
        leave the range of a format; MissingBasis for a quantised file that was written before files
        said what this takes.
        """
        if isinstance(texts, (str, bytes, np.ndarray)) or not isinstance(texts, Iterable):
            raise ValueError("embed takes a list of texts: for a single one, a list of that one")
        one_of(POOLINGS)("pooling", pooling)
        flag("normalise", normalise)
        given, ids = list(texts), []
        for number, each in enumerate(given, 1):
            try:
                ids.append(self._ids(each))
                self._check_length(len(ids[-1]))
            except ValueError as error:
                raise ValueError(f"text {number} of {len(given)}: {error}") from None
        self.file.check_unchanged()
        from pythia_rt.insides.basis import Basis  # not to write text

        # Of balanced files; pooling leaves it as it is.
        back = Basis(self.file).of("final_norm")
        rows = []
        for text, hidden in zip(ids, _hidden(self._core, ids, self._kv_format), strict=True):
            if not np.isfinite(hidden).all():
                raise self._not_finite(text[: 1 + int(np.isfinite(hidden).all(axis=1).argmin())])
            pooled = hidden[-1] if pooling == "last" else hidden.mean(axis=0, dtype=np.float64)
            rows.append(pooled if back is None else back.to_checkpoint(pooled))
        found = np.stack(rows) if rows else np.zeros((0, self.file.spec["hidden_size"]))
        if normalise:
            lengths = np.sqrt(np.square(found).sum(axis=1, keepdims=True))
            found = np.divide(found, lengths, out=np.zeros_like(found), where=lengths > 0)
        return found.astype(np.float32)


def _hidden(model: _core.Model, texts: list[NDArray[np.int32]], kv_format: str) -> Iterable[Floats]:
    """Yield what the head would get of each text [tokens, hidden_size]."""
    spec = model.spec
    place = ("final_norm", -1) if spec["final_norm"] else ("resid_post", spec["n_layers"] - 1)
    first = 0
    while first < len(texts):
        last = first + n_together(len(text) for text in itertools.islice(texts, first, None))
        group = texts[first:last]
        sessions = [_core.Session(model, capacity=len(t), kv_format=kv_format) for t in group]
        _, (rows,) = _core.run(sessions, group, capture=[place], logits="none")
        yield from np.split(rows, np.cumsum([len(text) for text in group])[:-1])
        first = last
