"""A prompt, in any of the forms a caller may have it, becomes checked token ids."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from pythia_rt.convert.errors import Sentence, quote, shown

if TYPE_CHECKING:
    from pythia_rt.tokenizer import Tokenizer

Prompt = str | Iterable[int] | NDArray[np.integer[Any]]
# Iterable, and yet no tokens in an order; transformers' BatchEncoding is a mapping.
NO_SEQUENCES = (bytes, bytearray, set, frozenset, Mapping)
Prompts = list[str] | list[list[int]] | list[NDArray[np.integer[Any]]] | tuple[Prompt, ...]


def list_of_prompts(prompt: Prompt | Prompts) -> list[Prompt] | None:
    """The prompts of a list of them; None for a single prompt, as a list of token ids is."""
    if not isinstance(prompt, (list, tuple)) or not prompt:
        return None
    is_list = isinstance(prompt[0], (str, np.ndarray, list, tuple))
    return cast("list[Prompt]", list(prompt)) if is_list else None


def token_ids(prompt: Prompt, tokenizer: Tokenizer | None, vocab_size: int) -> NDArray[np.int32]:
    """Token ids of `prompt`, int32 [n], n >= 1, each in [0, vocab_size).

    A str begins and ends with the tokens that its tokenizer puts there. Ids of padding rows, which
    no token has, are ids like others here and in every option: the model reads them, never writes
    them, and they have no text.

    Raises ValueError for anything that is not a str or whole numbers in one dimension, for ids
    out of range, for an empty prompt, and for a str when the model has no tokenizer.
    """
    ids = _encode(prompt, tokenizer) if isinstance(prompt, str) else _whole_numbers(prompt)
    if not ids:
        raise ValueError("the prompt is empty: give at least one character or token id")
    for token in ids:
        if isinstance(prompt, str) and tokenizer is not None and token >= vocab_size:
            raise ValueError(
                f"the text has the token {quote(tokenizer.name(token))}, id {token}, for which "
                f"this model has no weights: leave it out, the ids it knows end at {vocab_size - 1}"
            )
        if not 0 <= token < vocab_size:
            raise ValueError(
                f"token id {token} is not in the vocabulary: ids go from 0 to {vocab_size - 1}"
            )
    return np.asarray(ids, dtype=np.int32)


def whole_number(token: object) -> int:
    """The token id as an int. Raises ValueError for what is no whole number."""
    # bool is an int to Python; True as an id is a slip.
    if isinstance(token, bool) or not isinstance(token, numbers.Integral):
        raise ValueError(f"token ids must be whole numbers, not {shown(token)}")
    return int(token)


def no_tokenizer(advice: str) -> ValueError:
    """The error of text given to a model without a tokenizer; `advice` is for Python."""
    return ValueError(
        Sentence(
            f"this model has no tokenizer: {advice}",
            "this model has no tokenizer: convert it again from a folder with a tokenizer.json, or "
            "pass --token-ids and give ids in place of text",
        )
    )


def _encode(text: str, tokenizer: Tokenizer | None) -> list[int]:
    if tokenizer is None:
        raise no_tokenizer("give the prompt as token ids")
    return tokenizer.encode(text)


def _whole_numbers(prompt: object) -> list[int]:
    if isinstance(prompt, np.ndarray):
        if hasattr(prompt, "mask"):  # numpy.ma takes longer to import than all of ours
            raise ValueError(
                "token ids must all be there, and an array with a mask may lack some: take its "
                "compressed()"
            )
        # A float array is refused even where its values are whole: 16777217.0 may already be wrong.
        if prompt.ndim != 1 or prompt.dtype.kind not in "iu":
            raise ValueError(
                "an array of token ids must have one dimension and an integer type, "
                f"not shape {prompt.shape} and type {prompt.dtype}"
            )
        return [int(token) for token in prompt]
    if isinstance(prompt, NO_SEQUENCES) or not isinstance(prompt, Iterable):
        raise ValueError(
            f"the prompt must be a str or a sequence of token ids, not {type(prompt).__name__}"
        )
    return [whole_number(token) for token in prompt]
