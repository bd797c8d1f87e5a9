"""The pieces of a plan give the rows that they say, in every dtype and in chunks of any size."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from pythia_rt.convert import Checkpoint, CheckpointError
from pythia_rt.convert.plan import (
    Computed,
    Constant,
    Pieces,
    Product,
    Rows,
    alternate,
    count_rows,
)
from pythia_rt.convert.quantise import pieces as reading
from pythia_rt.convert.quantise import weights
from pythia_rt.convert.quantise.pieces import to_float32
from pythia_rt.convert.quantise.weights import WeightReader

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
GENERATOR = torch.Generator().manual_seed(0)
TENSORS = {
    "a": torch.randn(50, 24, generator=GENERATOR),
    "b": torch.randn(50, 24, generator=GENERATOR),
    "turned": torch.randn(24, 70, generator=GENERATOR),
    "narrow": torch.randn(50, 21, generator=GENERATOR),
    "factor": torch.randn(21, 24, generator=GENERATOR),
    "vector": torch.randn(50, generator=GENERATOR),
}
TABLE = np.arange(72, dtype=np.float32).reshape(3, 24)


def zeros(rows: int) -> torch.Tensor:
    return torch.zeros(rows, 24)


def gate_and_up(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    tiles = [part[i : i + 16] for i in (0, 16, 32) for part in (a, b)]
    return torch.cat([*tiles, a[48:], zeros(14), b[48:], zeros(14)])


# name -> (pieces, what they are of TENSORS)
CASES = {
    "rows": ((Rows("a", 3, 40),), lambda t: t["a"][3:40]),
    "every second row": (
        (Rows("a", 4, 20, 2), Rows("a", 5, 20, 2)),
        lambda t: torch.cat([t["a"][4:20:2], t["a"][5:20:2]]),
    ),
    "two tensors": (
        (Rows("a", 0, 50), Rows("b", 1, 9)),
        lambda t: torch.cat([t["a"], t["b"][1:9]]),
    ),
    "columns": ((Rows("turned", 0, 70, 1, True),), lambda t: t["turned"].T),
    "every third column": (
        (Rows("turned", 2, 70, 3, True), Rows("turned", 5, 6, 1, True)),
        lambda t: torch.cat([t["turned"].T[2:70:3], t["turned"].T[5:6]]),
    ),
    "padded rows": (
        (Rows("narrow", 5, 50, padding=3),),
        lambda t: torch.cat([t["narrow"][5:], torch.zeros(45, 3)], dim=1),
    ),
    "zero rows": ((Rows("b", 0, 9), Constant(0, 7)), lambda t: torch.cat([t["b"][:9], zeros(7)])),
    "gate and up": (
        alternate(Rows("a", 0, 50), Rows("b", 0, 50)),
        lambda t: gate_and_up(t["a"], t["b"]),
    ),
    "a vector and ones": (
        (Rows("vector", 10, 20), Constant(1, 3)),
        lambda t: torch.cat([t["vector"][10:20], torch.ones(3)]),
    ),
    "a table": ((Computed(TABLE),), lambda t: torch.from_numpy(TABLE)),
    "a table and rows": (
        (Computed(TABLE), Rows("a", 0, 2)),
        lambda t: torch.cat([torch.from_numpy(TABLE), t["a"][:2]]),
    ),
}


@pytest.fixture(scope="module", params=DTYPES)
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("pieces")
    tensors = {name: tensor.to(DTYPES[request.param]) for name, tensor in TENSORS.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder, {name: tensor.float() for name, tensor in tensors.items()}


def read(folder: Path, pieces: Pieces, step: int | None = None) -> NDArray[np.float32]:
    with Checkpoint(folder) as opened:
        found = [
            to_float32(chunk.data, chunk.dtype).reshape(chunk.rows, -1)
            for chunk in WeightReader(opened).matrix(pieces, step)
        ]
    return np.concatenate(found)


@pytest.mark.parametrize("step", [None, 1, 16, 7])
@pytest.mark.parametrize("name", CASES)
def test_pieces_give_their_rows(
    checkpoint: tuple[Path, dict[str, torch.Tensor]], name: str, step: int | None
) -> None:
    folder, tensors = checkpoint
    pieces, make = CASES[name]
    expected = make(tensors).numpy()
    expected = expected.reshape(len(expected), -1)
    assert count_rows(pieces) == len(expected)
    np.testing.assert_array_equal(read(folder, pieces, step), expected)


@pytest.mark.parametrize("band", [1, 300, 1000])
def test_columns_are_read_in_bands(
    checkpoint: tuple[Path, dict[str, torch.Tensor]], band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BAND_BYTES", band)
    folder, tensors = checkpoint
    for name in ("columns", "every third column"):
        pieces, make = CASES[name]
        np.testing.assert_array_equal(read(folder, pieces, 11), make(tensors).numpy())


@pytest.mark.parametrize("transposed", [False, True])
def test_products(checkpoint: tuple[Path, dict[str, torch.Tensor]], transposed: bool) -> None:
    folder, tensors = checkpoint
    rows, factor = ("a", "turned") if not transposed else ("a", "b")
    pieces = (Product(Rows(rows, 1, 50, 2), factor, transposed),)
    other = tensors[factor].double().T if transposed else tensors[factor].double()
    expected = (tensors[rows][1:50:2].double() @ other).float().numpy()
    np.testing.assert_allclose(read(folder, pieces, 16), expected, rtol=1e-6, atol=1e-6)


def test_dtypes_that_differ_meet_in_f32(tmp_path: Path) -> None:
    halves, floats = TENSORS["a"].half(), TENSORS["b"]
    save_file({"a": halves, "b": floats}, tmp_path / "model.safetensors")
    actual = read(tmp_path, (Rows("a", 0, 50), Rows("b", 0, 50)), 16)
    np.testing.assert_array_equal(actual, torch.cat([halves.float(), floats]).numpy())


def test_rows_of_other_lengths_are_refused(
    checkpoint: tuple[Path, dict[str, torch.Tensor]],
) -> None:
    with pytest.raises(CheckpointError, match="'a' and of those beside it have different lengths"):
        read(checkpoint[0], (Rows("a", 0, 9), Rows("narrow", 0, 9)))


def test_memory_is_for_a_band_of_a_transposed_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BAND_BYTES", 1 << 20)
    monkeypatch.setattr(weights, "CHUNK_BYTES", 1 << 20)
    save_file({"turned": torch.zeros(2048, 4096)}, tmp_path / "model.safetensors")  # 32 MiB
    pieces = (Rows("turned", 0, 4096, 1, True),)
    with Checkpoint(tmp_path) as opened:
        tracemalloc.start()
        rows = sum(chunk.rows for chunk in WeightReader(opened).matrix(pieces))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert rows == 4096
    assert peak < 6 << 20
