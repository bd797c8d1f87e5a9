"""What a run is given, checked: texts, and which of their positions are captured."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pythia_rt.convert.errors import shown
from pythia_rt.prompt import Prompt, Prompts, list_of_prompts

if TYPE_CHECKING:
    from pythia_rt.model import Model

Ids = NDArray[np.int32]
Text = TypeVar("Text", bound=Sized)
# Of a text, or a list of one for each text; below 0 they count from the end.
Positions = int | slice | Sequence[int] | NDArray[np.integer[Any]]

# Tokens that are read together: enough that few passes are half empty, few enough for the key-value
# caches of all of them to stay small. A text counts as so many at least, for its page.
_TOGETHER = 1024
_LEAST = 16


def read_texts(
    model: Model, texts: Prompt | Prompts, *, of_any_length: bool = False
) -> tuple[list[Ids], bool]:
    """The ids of each text, and whether they are a batch. Raises ValueError as `generate` does."""
    given = list_of_prompts(texts)
    is_batch = given is not None
    ids = []
    for number, text in enumerate(given or [cast(Prompt, texts)], 1):
        try:
            ids.append(model._ids(text))
            if not of_any_length:
                model._check_length(len(ids[-1]))
        except ValueError as error:
            if given is None:
                raise
            raise ValueError(f"text {number} of {len(given)}: {error}") from None
    return ids, is_batch


def read_positions(
    positions: Positions | Sequence[Positions] | None, lengths: Sequence[int], *, is_batch: bool
) -> list[NDArray[np.int64]]:
    """The captured positions of each text, sorted. Raises ValueError for those that it lacks."""
    if isinstance(positions, Iterator):  # it would be at its end after the first text
        positions = list(positions)
    each = [positions] * len(lengths)
    if is_batch and isinstance(positions, (list, tuple)) and not all(map(is_number, positions)):
        if len(positions) != len(lengths):
            raise ValueError(f"there are positions of {len(positions)} texts for {len(lengths)}")
        each = list(positions)
    return [_of_text(given, n) for given, n in zip(each, lengths, strict=True)]


def _of_text(positions: Any, length: int) -> NDArray[np.int64]:
    everything = np.arange(length, dtype=np.int64)
    if positions is None:
        return everything
    if isinstance(positions, slice):
        return np.sort(of_slice(positions, length))
    try:
        chosen = whole_numbers(positions)
    except TypeError:
        raise ValueError(
            f"positions must be whole numbers, a slice or a list, not {shown(positions)}"
        ) from None
    for position in chosen:
        if not -length <= position < length:
            raise ValueError(f"there is no position {position} in a text of {length} tokens")
    wanted = np.unique(np.array(chosen, np.int64) % length) if chosen else everything[:0]
    if len(wanted) != len(chosen):
        raise ValueError("a position is named twice")
    return wanted


def of_slice(given: slice, length: int) -> NDArray[np.int64]:
    """The positions that a slice chooses of so many. Raises ValueError for one of no numbers."""
    try:
        return np.arange(length, dtype=np.int64)[given]
    except (TypeError, ValueError):
        raise ValueError(f"positions must be a slice of whole numbers, not {given!r}") from None


def whole_numbers(given: Any) -> list[int]:
    """One number, or several, as a list. Raises TypeError for what is none, as True is."""
    items = [given] if is_number(given) else list(given)
    if any(isinstance(item, (bool, np.bool_)) for item in items):
        raise TypeError("a bool is no number")
    return list(map(operator.index, items))


def floats(given: ArrayLike, what: str) -> NDArray[np.float32]:
    """An array of float32. Raises ValueError, naming `what`, for what has no real numbers, and for
    finite ones that float32 cannot hold."""
    try:
        found = np.asarray(given)
    except (TypeError, ValueError):  # lists of unequal lengths
        found = np.array(None)
    if found.dtype.kind not in "fiub":
        raise ValueError(f"{what} needs numbers, not {shown(given)}")
    with np.errstate(over="ignore"):
        single = found.astype(np.float32)
    if np.any(np.isinf(single) & np.isfinite(found)):
        raise ValueError(f"{what} needs numbers that float32 can hold, below 3.5e38")
    return single


def is_number(value: object) -> bool:
    """Whether it is one whole number; arrays of one have __index__ too."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def grouped(texts: Iterable[Text]) -> Iterator[list[Text]]:
    """Yield the texts that are read together."""
    group: list[Text] = []
    cost = 0
    for text in texts:
        more = max(len(text), _LEAST)
        if group and cost + more > _TOGETHER:
            yield group
            group, cost = [], 0
        group.append(text)
        cost += more
    if group:
        yield group


def groups(lengths: Sequence[int]) -> Iterator[range]:
    """Yield the numbers of texts of these lengths that are read together."""
    first = 0
    for group in grouped(map(range, lengths)):
        yield range(first, first + len(group))
        first += len(group)
