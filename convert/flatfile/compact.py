"""Floats in fewer bytes, without losing a bit.

Words of 16 or 32 bits are cut in two. What is below the cut, most of a mantissa, is stored as it
is. Above it, where the exponent is, few values are frequent: each is replaced by its rank among
them, the most frequent first, and the rank is written in digits. A digit that is as large as it can
be says that the rest is in the next one.

Libraries for this exist, but their versions write different bytes for the same values, and a flat
file is the same on every machine.

    4 u16       1 where words were turned by one bit, so that the sign is below the cut; how many
                bits are below; the bits of a digit; how many values there are above
    u16 each    those values, by rank
    planes      of the bits below the cut, the lowest first: a bit of every word, 8 to a byte
    planes      of the bits of the first digits, of every word; then of the second ones, of those
                words whose first says so; and so on
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
_ABOVE = range(5, 12)  # bits above the cut that are tried: an exponent has 5 or 8
_DIGITS = (1, 2)  # bits of a digit, likewise
_HEADER = 4


def compress(words: NDArray[np.unsignedinteger[Any]]) -> bytes:
    """Return an array of u16 or u32 in fewer bytes, if it can be: `expand` takes it back."""
    bits, count = 8 * words.itemsize, words.size
    plain = words.reshape(-1).astype(np.uint32)
    tried = []
    for turned in (0, 1):
        for above in _ABOVE:
            counts = np.bincount(_turn(plain, bits, turned) >> np.uint32(bits - above))
            counts = -np.sort(-counts[counts > 0])
            for width in _DIGITS:
                # From what each digit has left to say on.
                left = counts[::-1].cumsum()[::-1][:: 2**width - 1]
                size = (bits - above) * _n_bytes(count) + width * int(_n_bytes(left).sum())
                tried.append((size + 2 * len(counts), turned, bits - above, width))
    _, turned, below, width = min(tried)
    plain = _turn(plain, bits, turned)
    high = plain >> np.uint32(below)
    counts = np.bincount(high)
    values = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    ranks = np.zeros(len(counts), np.uint32)
    ranks[values] = np.arange(len(values))
    parts = [np.array([turned, below, width, len(values)], "<u2").tobytes()]
    parts += [values.astype("<u2").tobytes(), *_planes(plain, below)]
    left, most = ranks[high], 2**width - 1
    while left.size:
        parts += _planes(np.minimum(left, most), width)
        left = left[left >= most] - np.uint32(most)
    return b"".join(parts)


def expand(
    data: NDArray[np.uint8], dtype: np.dtype[Any], count: int
) -> NDArray[np.unsignedinteger[Any]]:
    """Return the `count` words, u16 or u32, that `compress` was given.

    Raises ValueError where `data` is not what it returns for as many.
    """
    bits = 8 * dtype.itemsize
    reader = _Reader(data)
    turned, below, width, n_values = map(int, reader.numbers(_HEADER))
    values = reader.numbers(n_values)
    if turned > 1 or bits - below not in _ABOVE or width not in _DIGITS:
        raise ValueError("its first numbers are none of this format")
    words = reader.words(count, below)
    ranks = np.zeros(count, np.uint32)
    left, most = np.arange(count), 2**width - 1
    while left.size:  # ends, since each turn takes from the data
        digits = reader.words(left.size, width)
        ranks[left] += digits
        left = left[digits == most]
    if reader.left or (ranks >= n_values).any() or (values >> (bits - below)).any():
        raise ValueError("its parts do not fit each other")
    words |= values[ranks] << np.uint32(below)
    return _turn(words, bits, bits - turned).astype(dtype)


class _Reader:
    """Takes parts off the front of data."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._data = data

    @property
    def left(self) -> int:
        return self._data.size

    def numbers(self, count: int) -> Words:
        return self._take(2 * count).view("<u2").astype(np.uint32)

    def words(self, count: int, bits: int) -> Words:
        """Words of their `bits` planes."""
        words = np.zeros(count, np.uint32)
        for bit in range(bits):
            plane = np.unpackbits(self._take(_n_bytes(count)), count=count)
            words |= plane.astype(np.uint32) << np.uint32(bit)
        return words

    def _take(self, size: int) -> NDArray[np.uint8]:
        if size > self._data.size:
            raise ValueError("it is too short")
        taken: NDArray[np.uint8] = self._data[:size].copy()
        self._data = self._data[size:]
        return taken


def _planes(words: Words, bits: int) -> Iterator[bytes]:
    for bit in range(bits):
        yield np.packbits((words >> np.uint32(bit)) & np.uint32(1) != 0).tobytes()


def _turn(words: Words, bits: int, by: int) -> Words:
    """Words of `bits` bits, their highest `by` moved below the others."""
    if by % bits == 0:
        return words
    wide = words.astype(np.uint64)
    turned = (wide << np.uint64(by)) | (wide >> np.uint64(bits - by))
    found: Words = (turned & np.uint64(2**bits - 1)).astype(np.uint32)
    return found


def _n_bytes(bits: Any) -> Any:
    return -(-bits // 8)
