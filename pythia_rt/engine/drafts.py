"""Drafts: guesses at what comes next, which make a text come faster and never another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core
from pythia_rt.convert.errors import shown
from pythia_rt.prompt import no_tokenizer

if TYPE_CHECKING:
    from pythia_rt.model import Model

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Draft:
    """What guesses the next tokens of a text: made by `model`, `predicted` or `lookup`.

    A guess is taken only where the text would have that token anyway, so tokens, log-probabilities
    and text are those without a draft, sampled ones too. ValueError for what cannot guess.
    """

    other: Model | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        if self.other is not None:
            _check_model(self.other)
        if self.text is not None:
            _check_text(self.text)
        if self.other is not None and self.text is not None:
            raise ValueError("a draft guesses by a model or by a text, not by both: give one")

    @classmethod
    def model(cls, other: Model) -> Draft:
        """What another, smaller model with the same tokenizer finds likeliest."""
        _check_model(other)
        return cls(other=other)

    @classmethod
    def predicted(cls, text: str) -> Draft:
        """A text that the new one will resemble, such as the file that is to be edited."""
        _check_text(text)
        return cls(text=text)

    @classmethod
    def lookup(cls) -> Draft:
        """What followed the last tokens where they stood before, in the prompt and the text."""
        return cls()


def _check_model(other: object) -> None:
    from pythia_rt.model import Model

    if not isinstance(other, Model):
        raise ValueError(f"a draft's model must be a pythia_rt.Model, not {shown(other)}")


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise ValueError(f"a predicted text must be a str, not {shown(text)}")


def read_draft(draft: object) -> Draft | None:
    """The draft that an option names. Raises ValueError for what names none."""
    if draft is None or isinstance(draft, Draft):
        return draft
    if isinstance(draft, str) and draft == "lookup":  # an array compares entry by entry
        return Draft.lookup()
    raise ValueError(
        "draft must be None, 'lookup', Draft.model(...) or Draft.predicted(...), not "
        f"{shown(draft)}"
    )


def check_draft(draft: Draft | None, model: Model) -> Ids:
    """The ids of a predicted text, int32 [n], none for other drafts.

    Raises ValueError for a draft whose tokens are not the model's.
    """
    nothing = np.zeros(0, np.int32)
    if draft is None:
        return nothing
    if draft.text is not None:
        if model.tokenizer is None:
            raise no_tokenizer("it cannot read a predicted text")
        ids = model.tokenizer.encode(draft.text, continues=True) if draft.text else []
        return np.array(ids, np.int32)
    if draft.other is not None:
        ours, theirs = model.spec["n_tokens"], draft.other.spec["n_tokens"]
        if ours != theirs:
            raise ValueError(
                f"the draft's model has {theirs} tokens and this one {ours}: a draft needs the "
                "same tokenizer"
            )
        if not _same_tokenizer(model, draft.other):
            raise ValueError("the draft's model has another tokenizer: a draft needs the same one")
    return nothing


def _same_tokenizer(model: Model, other: Model) -> bool:
    ours, theirs = model.tokenizer, other.tokenizer
    if ours is None or theirs is None or model.file.tokenizer == other.file.tokenizer:
        return True
    return ours.vocabulary == theirs.vocabulary


def draft_bytes(draft: Draft | None, capacity: int) -> int:
    """Bytes of cache that a draft may need beside one text of so many tokens."""
    if draft is None or draft.other is None:
        return 0
    n_tokens = min(capacity, int(draft.other.spec["max_positions"]))
    return -(-n_tokens // _core.PAGE_POSITIONS) * draft.other.new_session(1).page_bytes


def new_draft(draft: Draft | None, predicted: Ids, text: Ids, n_tokens: int) -> _core.Draft | None:
    """The core's draft for one text, of which `text` [n] is known; None for none."""
    if draft is None:
        return None
    if draft.other is None:
        return _core.lookup_draft(text, predicted)
    other = draft.other
    return _core.model_draft(other._core, text, n_tokens=n_tokens, kv_format=other.kv_format)
