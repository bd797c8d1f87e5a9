"""Floats in fewer bytes: what is read is what was written, to the bit, and damage is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
from numpy.typing import NDArray

from pythia_rt.convert import FlatFile, FlatFileError, convert
from pythia_rt.convert.flatfile.basis import load, store
from pythia_rt.convert.flatfile.compact import compress, expand
from pythia_rt.insides.basis import Basis

WORDS = {"F16": "<u2", "BF16": "<u2", "F32": "<u4"}


def some_floats(kind: str, count: int) -> NDArray[np.float32]:
    random = np.random.default_rng(count)
    values: NDArray[np.float32] = random.normal(size=count).astype(np.float32) * np.float32(0.1)
    match kind:
        case "positive":
            values = 1 + np.abs(values)
        case "zeros":
            values[:] = 0
        case "a few":
            values = random.choice(np.array([0.5, -0.0, 0.0, 1e-30, 3e38], np.float32), count)
        case "all sizes":
            values = np.exp(random.uniform(-80, 80, count)).astype(np.float32)
    return values


def as_dtype(values: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """The nearest that are in it, of F16, or those without the lower half, of BF16."""
    with np.errstate(over="ignore"):
        if dtype == "F16":
            halves = values.astype(np.float16)
            halves[np.isinf(halves)] = 7
            return halves.astype(np.float32)
    keep = 0xFFFF0000 if dtype == "BF16" else 0xFFFFFFFF
    found: NDArray[np.float32] = (values.view("<u4") & np.uint32(keep)).view(np.float32)
    return found


@pytest.mark.parametrize("kind", ["normal", "positive", "zeros", "a few", "all sizes"])
@pytest.mark.parametrize("dtype", list(WORDS))
@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 1000, 4099])
def test_no_bit_is_lost(kind: str, dtype: str, count: int) -> None:
    values = as_dtype(some_floats(kind, count), dtype)
    stored, data = store(values)
    found = load(np.frombuffer(data, np.uint8), stored.dtype, values.shape)
    assert found.dtype == np.float32
    assert found.tobytes() == values.tobytes()
    assert len(data) <= count * np.dtype(WORDS[dtype]).itemsize
    for word in ("<u2", "<u4"):  # whatever the words mean
        words = values.view(word)
        back = expand(np.frombuffer(compress(words), np.uint8), words.dtype, words.size)
        assert back.tobytes() == words.tobytes()


@pytest.mark.parametrize(
    ("kind", "dtype", "most"),
    [("normal", "F16", 0.87), ("normal", "F32", 0.85), ("positive", "F16", 0.7)],
)
def test_room_is_spared(kind: str, dtype: str, most: float) -> None:
    """Of a normal number's exponent and sign 3.1 bits are left, where there are 6 or 9."""
    values = as_dtype(some_floats(kind, 4099), dtype)
    _, data = store(values)
    assert len(data) < most * values.size * np.dtype(WORDS[dtype]).itemsize


def test_what_would_take_more_room_is_left_as_it_is() -> None:
    values = as_dtype(some_floats("all sizes", 4), "F16")
    stored, data = store(values.reshape(2, 2))
    assert stored == ("F16", (2, 2))
    assert data == values.astype(np.float16).tobytes()


def test_damage_is_found() -> None:
    words = some_floats("normal", 99).view("<u4")
    good = np.frombuffer(compress(words), np.uint8)

    def refuse(data: NDArray[np.uint8], says: str, count: Any = 99) -> None:
        with pytest.raises(ValueError, match=says):
            expand(data, words.dtype, count)

    for length in range(len(good)):
        refuse(good[:length], "too short")
    refuse(np.append(good, np.uint8(0)), "do not fit each other")
    refuse(good, "too short", 10**6)
    for place in (0, 2, 4):  # whether it is turned, the cut, the digits
        for number in (0, 3, 33, 65535):
            changed = good.copy()
            changed[place : place + 2] = np.array([number], "<u2").view(np.uint8)
            if number or place:
                refuse(changed, "none of this format|too short|do not fit")


def test_damage_of_any_kind_ends() -> None:
    """In a ValueError, or in other words of the same number."""
    words = some_floats("a few", 300).view("<u4")
    good = np.frombuffer(compress(words), np.uint8)
    random, refused = np.random.default_rng(0), 0
    for _ in range(2000):
        changed = good.copy()
        places = random.integers(0, len(good), random.integers(1, 9))
        changed[places] = random.integers(0, 256, len(places))
        try:
            assert expand(changed, words.dtype, words.size).shape == words.shape
        except ValueError:
            refused += 1
    assert 100 < refused < 2000


def test_what_is_damaged_is_refused(tmp_path: Path) -> None:
    source = families.save(families.make_model("GPT-NeoX", 0), tmp_path / "source", 0)
    path = convert(source, tmp_path / "q8", format="q8")
    entry = FlatFile(path).entries["basis.qkv.bias"]
    assert entry.dtype == "U8"
    for offset, says in ((0, "a type that is none"), (1, "first numbers are none")):
        damaged = tmp_path / str(offset)
        damaged.write_bytes(path.read_bytes())
        with damaged.open("r+b") as file:
            file.seek(entry.offset + offset)
            file.write(b"\xff")
        opened = FlatFile(damaged)  # the core needs nothing of it
        with pytest.raises(FlatFileError, match=f"its basis.qkv.bias cannot be read .*{says}"):
            Basis(opened)
