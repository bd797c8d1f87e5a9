"""What may be changed in a pass: data forms, and functions.

A data form says in numbers what becomes of a point's values, c -> a c + b in the checkpoint's own
basis, so it needs no Python in a layer. A function gets the values and may write to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pythia_rt.convert.errors import shown
from pythia_rt.insides.inputs import floats, of_slice, whole_numbers
from pythia_rt.insides.lookup import Name, Names
from pythia_rt.insides.names import BY_NAME, Place, canonical
from pythia_rt.insides.values import Floats, Reading

Chosen = int | slice | Sequence[int] | NDArray[np.integer[Any]] | None


class At(NamedTuple):
    """Where a function is called: the point's name and layer (-1: in none), the number of the text,
    and the positions of the rows, int64 [n]. A long text comes in pieces of a pass. Of what is
    written each text is number 0, and a draft's guesses come too, right or wrong: what is raised
    among them counts where it is raised without them too."""

    name: str
    layer: int
    text: int
    positions: NDArray[np.int64]


Function = Callable[[Any, At], Any]


@dataclass(frozen=True, eq=False)
class _Form:
    """`point` is a name, a tuple or a glob. `heads` and `neurons` (the last axis: an MLP's neurons,
    a stream's channels, a head's dimensions) restrict it, and so do `positions`: numbers, or a
    slice. Scores and patterns have no neurons, and take a number, or an array that broadcasts to
    [heads, positions, keys]: of the queries at `positions`, by default of all, and of all keys of
    the text."""

    point: Name
    heads: Chosen = field(default=None, kw_only=True)
    neurons: Chosen = field(default=None, kw_only=True)
    positions: Chosen = field(default=None, kw_only=True)


@dataclass(frozen=True, eq=False)
class Zero(_Form):
    """Sets values to 0."""


@dataclass(frozen=True, eq=False)
class Scale(_Form):
    """Multiplies values by a number, or by an array of the shape of what is chosen of a token."""

    by: ArrayLike = 1.0


@dataclass(frozen=True, eq=False)
class Add(_Form):
    """Adds a vector: a number, an array of the shape of what is chosen of a token, or one of these
    for each position, [positions, ...]."""

    vector: ArrayLike = 0.0


@dataclass(frozen=True, eq=False)
class Replace(_Form):
    """Puts values in place: a number, an array of the shape of what is chosen of a token or of all
    that a token has there, or one of these for each position, [positions, ...]."""

    values: ArrayLike = 0.0


@dataclass(frozen=True, eq=False)
class Mean(_Form):
    """Puts a mean over tokens in place, of the shape that a token has there (`moments` has it)."""

    mean: ArrayLike = 0.0


class PerText:
    """Edits of each text of a batch: a list of lists, as long as the batch."""

    def __init__(self, edits: Iterable[Edits]) -> None:
        """A list of edits, or one edit, for each text."""
        if isinstance(edits, str) or not isinstance(edits, Iterable):
            raise ValueError(
                f"PerText needs a list with the edits of each text, not {shown(edits)}"
            )
        self.edits = tuple(edits)


Edit = _Form | tuple[Name, Function]
Edits = Edit | Iterable[Edit]


class Lowered(NamedTuple):
    """An edit for the core. What is a function has no `scale` and `shift`."""

    place: Place  # of the core
    positions: NDArray[np.int64] | None
    scale: Floats | None = None
    shift: Floats | None = None
    function: Callable[[Floats, NDArray[np.int64]], None] | None = None


def listed(edits: Edits | None) -> list[Edit]:
    """The edits of one text. Raises ValueError for what is none."""
    if edits is None:
        return []
    if isinstance(edits, _Form) or _is_function(edits):
        return [cast(Edit, edits)]
    if isinstance(edits, PerText):
        raise ValueError(
            "PerText is for Model.run: of texts that are written, each Request of an Engine has "
            "edits of its own"
        )
    if isinstance(edits, str) or not isinstance(edits, Iterable):
        raise ValueError(f"edits must be a list of edits, not {shown(edits)}")
    found = cast("list[Edit]", list(edits))
    for edit in found:
        if not isinstance(edit, _Form) and not _is_function(edit):
            raise ValueError(
                "an edit is a Zero, Scale, Add, Replace or Mean, or a tuple (name, function), "
                f"not {shown(edit)}"
            )
    return found


def of_texts(edits: Edits | PerText | None, n_texts: int) -> list[list[Edit]]:
    """The edits of each of so many texts."""
    if not isinstance(edits, PerText):
        return [listed(edits)] * n_texts
    if len(edits.edits) != n_texts:
        raise ValueError(f"there are edits of {len(edits.edits)} texts for {n_texts}")
    return [listed(each) for each in edits.edits]


class Lowering:
    """Brings edits into the core's form."""

    def __init__(self, names: Names, reading: Reading) -> None:
        """For the model of both."""
        self._names = names
        self._reading = reading

    def __call__(self, edits: Sequence[Edit], text: int, length: int | None) -> list[Lowered]:
        """Of the text of a number and a length, which is None where it grows.

        Raises ValueError for what does not fit.
        """
        return [
            self._lower(edit, place, text, length)
            for edit in edits
            for place in self._names.select([edit.point if isinstance(edit, _Form) else edit[0]])
        ]

    def _lower(self, edit: Edit, place: Place, text: int, length: int | None) -> Lowered:
        name = canonical(place)
        if BY_NAME[place.point].derived:
            raise ValueError(
                f"{name} cannot be edited: it is computed of "
                f"{canonical(self._reading.source(place))}, which can"
            )
        if not isinstance(edit, _Form):
            return self._function(edit[1], place, text)
        most = self._reading.spec["max_positions"]
        positions = _positions(edit.positions, length, most, name)
        if BY_NAME[place.point].shape == "scores":
            return self._on_scores(edit, place, positions, length)
        a, b = self._affine(edit, place, name)
        if b.ndim > len(self._reading.shape(place)):  # a row for each position
            if positions is None:
                positions = np.arange(len(b) if length is None else length, dtype=np.int64)
            if len(b) not in (1, len(positions)):
                raise ValueError(
                    f"the edit of {name} has values of {len(b)} positions for {len(positions)}"
                )
            b = np.broadcast_to(b, (len(positions), *b.shape[1:]))[np.argsort(positions)]
        scale, shift = self._reading.affine(place, a, b)
        positions = None if positions is None else np.sort(positions)
        return Lowered(self._reading.source(place), positions, scale, shift)

    def _affine(self, edit: _Form, place: Place, name: str) -> tuple[Floats, Floats]:
        """a of a token's shape, and b of that or [positions, ...]: c -> a c + b."""
        shape = self._reading.shape(place)
        a, b = np.ones(shape, np.float32), np.zeros(shape, np.float32)
        chosen = _chosen(edit, shape, name)
        fitted: Floats
        match edit:
            case Zero():
                a[chosen] = 0
            case Scale():
                a[chosen] = _fitted(edit.by, a[chosen].shape, shape, chosen, name, rows=False)
            case Mean():
                fitted = _fitted(edit.mean, shape, shape, (), name, rows=False)
                a[chosen], b[chosen] = 0, np.broadcast_to(fitted, shape)[chosen]
            case Add() | Replace():
                given = edit.vector if isinstance(edit, Add) else edit.values
                fitted = _fitted(given, a[chosen].shape, shape, chosen, name, rows=True)
                if fitted.ndim > len(shape):
                    b = np.zeros((len(fitted), *shape), np.float32)
                    index: Any = (slice(None), *chosen)
                    b[index] = fitted
                else:
                    b[chosen] = fitted
                if isinstance(edit, Replace):
                    a[chosen] = 0
        return a, b

    def _on_scores(
        self, edit: _Form, place: Place, positions: NDArray[np.int64] | None, length: int | None
    ) -> Lowered:
        """A number, or one for each head, is the core's; what differs from key to key a function:
        each pass has other keys."""
        name, heads = canonical(place), self._reading.spec["n_heads"]
        if edit.neurons is not None:
            raise ValueError(f"{name} has no neurons: choose heads and positions")
        (of_heads, *_) = _chosen(edit, (heads, 1), name)
        chosen = of_heads.ravel()
        n_rows = length if positions is None else len(positions)
        given = _fitted_to_scores(edit, chosen, (heads, n_rows, length), name)
        keeps, moves = isinstance(edit, (Scale, Add)), not isinstance(edit, Scale)
        if given.shape[1:] == (1, 1):
            scale, shift = np.ones(heads, np.float32), np.zeros(heads, np.float32)
            scale[chosen] = given[:, 0, 0] if isinstance(edit, Scale) else keeps
            shift[chosen] = given[:, 0, 0] if moves else 0
            positions = None if positions is None else np.sort(positions)
            return Lowered(place, positions, scale, shift)
        if positions is not None and given.shape[1] > 1:
            given = given[:, np.argsort(positions)]
        every = np.arange(length or 0) if positions is None else np.sort(positions)

        def change(rows: Floats, at: NDArray[np.int64]) -> None:
            own = given if given.shape[1] == 1 else given[:, np.searchsorted(every, at)]
            own = own[:, :, : rows.shape[2]].transpose(1, 0, 2)
            part = rows[:, chosen]
            if isinstance(edit, Scale):
                # 0 leaves nothing of what is there, whatever it is.
                found = np.multiply(part, own, out=np.zeros_like(part), where=own != 0)
            else:
                found = part + own if keeps else own
            rows[:, chosen] = found

        return Lowered(place, None if positions is None else every, function=change)

    def _function(self, function: Function, place: Place, text: int) -> Lowered:
        reading, name = self._reading, canonical(place)
        is_scores = BY_NAME[place.point].shape == "scores"
        direct = is_scores or reading.is_as_run(place)

        def change(rows: Floats, positions: NDArray[np.int64]) -> None:
            if is_scores:
                values = rows  # [n, heads, keys]
            elif direct:
                values = rows.reshape(len(rows), *reading.shape(place))
            else:
                values = np.array(reading.values(place, rows.copy()))
            before = None if direct else values.copy()
            got = function(values, At(place.point, place.layer, text, positions))
            if got is not None and got is not values:
                found = np.asarray(got)
                if found.dtype.kind not in "fiub":
                    raise ValueError(
                        f"the edit of {name} returned an array of {found.dtype} where one of real "
                        "numbers is needed"
                    )
                if found.shape != values.shape:
                    raise ValueError(
                        f"the edit of {name} returned an array {list(found.shape)} where "
                        f"{list(values.shape)} is needed"
                    )
                values[...] = found
            if before is None:
                return
            # There and back costs last digits: which rows pay that is not for others to decide.
            axes = tuple(range(1, values.ndim))
            moved = (values != before).any(axis=axes)
            if moved.any():
                part = rows[moved]
                reading.put(place, values[moved], part)
                rows[moved] = part

        return Lowered(reading.source(place), None, function=change)


def _is_function(edit: object) -> bool:
    return isinstance(edit, tuple) and len(edit) == 2 and callable(edit[1])


def _numbers(given: Any, what: str) -> list[int]:
    try:
        return whole_numbers(given)
    except TypeError:
        raise ValueError(f"{what} must be whole numbers, not {shown(given)}") from None


def _indices(given: Chosen, size: int, what: str, name: str) -> NDArray[np.int64]:
    if given is None:
        return np.arange(size)
    if isinstance(given, slice):
        return of_slice(given, size)
    found = _numbers(given, what)
    for each in found:
        if not -size <= each < size:
            raise ValueError(f"{name} has {size} {what}, and none of number {each}")
    chosen = np.array(found, np.int64) % size
    if len(np.unique(chosen)) != len(chosen):
        raise ValueError(f"the edit of {name} names one of its {what} twice")
    return chosen


def _chosen(edit: _Form, shape: tuple[int, ...], name: str) -> tuple[NDArray[np.int64], ...]:
    """Indices into an array of `shape`, whose result has the shape of what is chosen."""
    neurons = _indices(edit.neurons, shape[-1], "neurons", name)
    if len(shape) == 1:
        if edit.heads is not None:
            raise ValueError(f"{name} has no heads")
        return (neurons,)
    return np.ix_(_indices(edit.heads, shape[0], "heads", name), neurons)


def _fitted(
    given: ArrayLike,
    chosen_shape: tuple[int, ...],
    shape: tuple[int, ...],
    chosen: tuple[Any, ...],
    name: str,
    *,
    rows: bool,
) -> Floats:
    """`given` in the shape of what is chosen, or [positions, ...] of it. It may have the shape of
    all that there is, of which that is taken."""
    values = floats(given, f"the edit of {name}")
    if chosen and values.shape[-len(shape) :] == shape and chosen_shape != shape:
        index: Any = (..., *chosen)
        values = values[index]
    allowed = len(chosen_shape) + (1 if rows else 0)
    try:
        if values.ndim > allowed:
            raise ValueError
        whole = chosen_shape if values.ndim < allowed or not rows else (len(values), *chosen_shape)
        return np.broadcast_to(values, whole)
    except ValueError:
        more = f" or [positions, {', '.join(map(str, chosen_shape))}]" if rows else ""
        raise ValueError(
            f"the edit of {name} has values of the shape {list(values.shape)} where "
            f"{list(chosen_shape)}{more} is needed"
        ) from None


def _fitted_to_scores(
    edit: _Form, chosen: NDArray[np.int64], shape: tuple[int, int | None, int | None], name: str
) -> Floats:
    """What an edit of scores or patterns says, [chosen heads, 1 or positions, 1 or keys]; of all
    heads the chosen ones are taken. `shape` is that of all, None where a text grows."""
    numbers = {Zero: 0.0, Scale: getattr(edit, "by", 0), Add: getattr(edit, "vector", 0),
               Replace: getattr(edit, "values", 0), Mean: getattr(edit, "mean", 0)}  # fmt: skip
    values = floats(numbers[type(edit)], f"the edit of {name}")
    n_heads, n_rows, n_keys = shape
    if values.ndim <= 3:
        lead: tuple[int, ...] = (1,) * (3 - values.ndim)
        found: Floats = values.reshape(lead + values.shape)
        if len(found) == n_heads != len(chosen):
            found = found[chosen]
        if (
            len(found) in (1, len(chosen))
            and found.shape[1] in (1, n_rows)
            and found.shape[2] in (1, n_keys)
        ):
            return np.broadcast_to(found, (len(chosen), *found.shape[1:]))
    if n_keys is None:
        raise ValueError(
            f"the edit of {name} has values of the shape {list(values.shape)}, and the keys of a "
            "text that is written grow: give a number, one for each head [heads, 1, 1], or a "
            "function"
        )
    raise ValueError(
        f"the edit of {name} has values of the shape {list(values.shape)} where "
        f"{[len(chosen), n_rows, n_keys]} is needed, heads, positions and keys, or 1 for any"
    )


def _positions(given: Chosen, length: int | None, most: int, name: str) -> NDArray[np.int64] | None:
    """Those of a text of a length, or of one that grows and then has `most` at most."""
    if given is None:
        return None
    if isinstance(given, slice):
        found = of_slice(given, most if length is None else length)
        from_end = any(end is not None and end < 0 for end in (given.start, given.stop))
        if length is None and from_end:
            raise _from_end(name)
        return found
    if length is not None:
        return _indices(given, length, "positions", name)
    chosen = _numbers(given, "positions")
    if chosen and min(chosen) < 0:
        raise _from_end(name)
    return _indices(chosen, most, "positions", name)


def _from_end(name: str) -> ValueError:
    return ValueError(
        f"the edit of {name} counts positions from the end of a text that grows: count from its "
        "beginning"
    )
