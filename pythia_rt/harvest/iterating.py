"""Activations of texts in batches, as they are computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt.harvest.capture import Capturing
from pythia_rt.harvest.corpus import Cut, Text, check_texts, read_cut, read_documents, windows_of
from pythia_rt.insides.inputs import grouped
from pythia_rt.insides.lookup import Capture as Points
from pythia_rt.insides.lookup import is_name
from pythia_rt.options import integer, whole_number_from

if TYPE_CHECKING:
    from pythia_rt.model import Model

Rows = NDArray[Any]


def iter_activations(
    model: Model,
    texts: Iterable[Text],
    points: Points,
    *,
    batch: int = 4096,
    shuffle_buffer: int = 0,
    seed: int = 0,
    context: int | None = None,
    dtype: str = "f32",
    prepend_bos: bool = False,
    joined: bool = False,
    max_tokens: int | None = None,
) -> Iterator[Any]:
    """Yield what is at a point of the model for each token of `texts`, [batch, width] at a time.

    Of one name each is a float32 (or with "f16" float16) array, of several names or globs a dict of
    one for each point, with the same tokens in the same rows. Each token comes once; the last batch
    may be smaller. With `shuffle_buffer` rows are drawn from so many that are held, or a little
    more: in an order that follows from `seed` and the number of tokens alone, so for another step
    of a model it is the same.

    `texts`, which may be endless, are read as they are needed; they and the other options are those
    of `harvest`. Arrays are new ones, which the caller may change, and torch.from_numpy take.
    Raises as `harvest` does, on the call and not at the first batch what is wrong with its
    arguments.
    """
    batch = whole_number_from(1, 1 << 40, "rows")("batch", batch)
    shuffle_buffer = whole_number_from(0, 1 << 40, "rows")("shuffle_buffer", shuffle_buffer)
    seed = integer(lambda n: n >= 0, "a whole number from 0 on")("seed", seed)
    check_texts(texts)
    capture = Capturing(model, points, dtype)
    cut = read_cut(model, context, prepend_bos=prepend_bos, joined=joined, max_tokens=max_tokens)
    is_one = is_name(points)
    batches = _batches(_rows(model, texts, capture, cut), capture, batch, shuffle_buffer, seed)
    names = list(capture.widths)
    return (b[0] if is_one else dict(zip(names, b, strict=True)) for b in batches)


def _rows(
    model: Model, texts: Iterable[Text], capture: Capturing, cut: Cut
) -> Iterator[list[Rows]]:
    documents = (ids for ids, _ in read_documents(model, texts, cut))
    for group in grouped(window.ids for window in windows_of(documents, cut)):
        yield capture.rows(group)


def _batches(
    arriving: Iterable[list[Rows]], capture: Capturing, batch: int, held: int, seed: int
) -> Iterator[list[Rows]]:
    """Yield batches of what arrives, each row once; half of `held` rows, at random, when those are
    there."""
    random = np.random.default_rng(seed)
    size = max(held, batch)
    # Half of it, in whole batches; in order without a buffer, where all that is there goes.
    n_out = size // batch * batch if not held else max(1, size // 2 // batch) * batch
    buffer = [np.empty((size, width), capture.dtype) for width in capture.widths.values()]
    n_held = 0

    def drawn(n_rows: int) -> list[Rows]:
        """Rows that leave the buffer; the others move together, in their new order."""
        nonlocal n_held
        order = random.permutation(n_held) if held else np.arange(n_held)
        leaving = [rows[order[:n_rows]] for rows in buffer]
        for rows in buffer:
            rows[: n_held - n_rows] = rows[order[n_rows:]]
        n_held -= n_rows
        return leaving

    for piece in arriving:
        taken = 0
        while taken < len(piece[0]):
            n_more = min(len(piece[0]) - taken, size - n_held)
            for rows, more in zip(buffer, piece, strict=True):
                rows[n_held : n_held + n_more] = more[taken : taken + n_more]
            n_held, taken = n_held + n_more, taken + n_more
            if n_held == size:
                yield from _cut(drawn(n_out), batch)
    if n_held:
        yield from _cut(drawn(n_held), batch)


def _cut(rows: list[Rows], batch: int) -> Iterator[list[Rows]]:
    for start in range(0, len(rows[0]), batch):
        yield [each[start : start + batch] for each in rows]
