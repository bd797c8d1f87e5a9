"""Batches of activations: each token once, as the seed orders them; and the folder for SAELens."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pytest
import torch
from numpy.typing import NDArray

from pythia_rt import Model
from pythia_rt.harvest import Harvest, arrow, harvest, iter_activations, write_arrow

POINT = "layers.1.resid_post"
OTHER = "layers.0.mlp_out"
OPTIONS: dict[str, Any] = {"context": 32, "dtype": "f32"}


@pytest.fixture(scope="module")
def model(demo_file: Callable[[str], Path]) -> Model:
    return Model.load(demo_file("q8"), threads=2)


@pytest.fixture(scope="module")
def texts(model: Model) -> list[NDArray[np.int64]]:
    """No token comes twice, so no two rows are the same."""
    return np.array_split(np.random.default_rng(5).permutation(model.spec["n_tokens"])[:2030], 9)


@pytest.fixture(scope="module")
def in_order(
    model: Model, texts: list[NDArray[np.int64]], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    made = harvest(model, texts, [POINT, OTHER], tmp_path_factory.mktemp("rows"), **OPTIONS)
    return {point: np.concatenate(list(made.shards(point))) for point in (POINT, OTHER)}


def collected(batches: Iterator[Any], batch: int) -> NDArray[Any]:
    found = list(batches)
    assert [len(rows) for rows in found[:-1]] == [batch] * (len(found) - 1)
    assert 0 < len(found[-1]) <= batch
    return np.concatenate(found)


@pytest.mark.parametrize("batch", [1, 100, 1000, 10_000])
def test_without_a_buffer_rows_come_in_order(
    model: Model, texts: list[NDArray[np.int64]], in_order: Any, batch: int
) -> None:
    batches = iter_activations(model, texts, POINT, batch=batch, **OPTIONS)
    np.testing.assert_array_equal(collected(batches, batch), in_order[POINT])


@pytest.mark.parametrize(("batch", "held"), [(64, 500), (64, 64), (300, 100), (7, 10_000)])
def test_each_row_comes_once_and_points_stay_together(
    model: Model, texts: list[NDArray[np.int64]], in_order: Any, batch: int, held: int
) -> None:
    options: dict[str, Any] = {"batch": batch, "shuffle_buffer": held, "seed": 3, **OPTIONS}
    found = list(iter_activations(model, texts, [POINT, OTHER], **options))
    assert [len(each[POINT]) for each in found[:-1]] == [batch] * (len(found) - 1)
    place = {row.tobytes(): number for number, row in enumerate(in_order[POINT])}
    assert len(place) == len(in_order[POINT])
    order = [place[row.tobytes()] for each in found for row in each[POINT]]
    assert sorted(order) == list(range(len(place))) != order
    others = np.concatenate([each[OTHER] for each in found])
    np.testing.assert_array_equal(others, in_order[OTHER][order])
    again = iter_activations(model, texts, POINT, **options)
    np.testing.assert_array_equal(collected(again, batch), in_order[POINT][order])
    other = iter_activations(model, texts, POINT, **{**options, "seed": 4})
    assert not np.array_equal(collected(other, batch), in_order[POINT][order])


def test_a_buffer_mixes_what_is_far_apart(
    model: Model, texts: list[NDArray[np.int64]], in_order: Any
) -> None:
    place = {row.tobytes(): number for number, row in enumerate(in_order[POINT])}
    size = len(place) // 2
    batches = iter_activations(model, texts, POINT, batch=64, shuffle_buffer=size, **OPTIONS)
    first = [place[row.tobytes()] for row in next(batches)]
    assert min(first) < size / 4 and max(first) > size * 3 / 4


def test_texts_may_be_endless(model: Model) -> None:
    read = 0

    def forever() -> Iterator[str]:
        nonlocal read
        for number in itertools.count():
            read += 1
            yield f"The kernel has {number} files."

    batches = iter_activations(model, forever(), POINT, batch=64)
    assert read == 0
    assert [len(next(batches)) for _ in range(3)] == [64] * 3
    assert read < 300
    found = iter_activations(model, forever(), POINT, max_tokens=100, dtype="f16")
    [only] = found
    assert only.shape == (100, 256) and only.dtype == np.float16


def test_batches_belong_to_the_caller(
    model: Model, texts: list[NDArray[np.int64]], in_order: Any
) -> None:
    """torch.from_numpy takes them, and what is written in one is in no other."""
    found = []
    for rows in iter_activations(model, texts, POINT, batch=64, shuffle_buffer=300, **OPTIONS):
        tensor = torch.from_numpy(rows)
        found.append(rows.copy())
        tensor.zero_()
    everything = np.concatenate(found)
    assert {row.tobytes() for row in everything} == {row.tobytes() for row in in_order[POINT]}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"batch": 0}, "batch must be from 1"),
        ({"shuffle_buffer": -1}, "shuffle_buffer must be from 0"),
        ({"seed": -1}, "seed must be a whole number from 0 on, not -1"),
        ({"points": "layers.1.nothing"}, "no point"),
        ({"context": 1 << 20}, "context must be"),
        ({"dtype": "f8"}, "dtype must be one of f16, f32"),
        ({"texts": "a"}, "texts must be a list of texts or paths"),
        ({"texts": Path("a.txt")}, "texts must be a list of texts or paths"),
        ({"points": "layers.0.result"}, "layers.0.result cannot be harvested, as scores, patterns"),
        ({"points": "*.pattern"}, "layers.0.pattern cannot be harvested, as scores, patterns"),
    ],
)
def test_bad_arguments_are_refused_on_the_call(
    model: Model, changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        iter_activations(model, **{"texts": ["a"], "points": POINT, **changed})


@pytest.mark.parametrize(
    ("points", "is_one"),
    [
        (POINT, True),
        ("blocks.1.hook_resid_post", True),
        (("resid_post", 1), True),
        ([POINT], False),
        ("layers.1.resid_pos?", False),
        (lambda name: name == POINT, False),
    ],
)
def test_one_name_gives_arrays_and_all_else_a_dict(model: Model, points: Any, is_one: bool) -> None:
    found = next(iter_activations(model, [[1, 2, 3]], points, **OPTIONS))
    (rows,) = [found] if is_one else found.values()
    assert rows.shape == (3, 256)
    assert is_one or list(found) == [POINT]


# The folder that SAELens reads


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_datasets_loads_the_folder(
    model: Model, texts: list[NDArray[np.int64]], tmp_path: Path, dtype: str
) -> None:
    made = harvest(
        model, texts, POINT, tmp_path / "rows", context=32, dtype=dtype, joined=True,
        shard_tokens=300,
    )  # fmt: skip
    n_rows = write_arrow(made, POINT, tmp_path / "arrow")
    assert n_rows == len(made.tokens) // 32
    loaded = datasets.load_from_disk(tmp_path / "arrow").with_format("numpy")
    assert len(loaded) == n_rows
    column = "blocks.1.hook_resid_post"
    feature = loaded.features[column]
    assert isinstance(feature, datasets.Array2D)
    kind = {"f16": np.float16, "f32": np.float32}[dtype]
    assert (feature.shape, feature.dtype) == ((32, 256), np.dtype(kind).name)
    rows = np.concatenate(list(made.shards(POINT)))
    for number in range(n_rows):
        inside = slice(32 * number, 32 * number + 32)
        np.testing.assert_array_equal(loaded[number][column].astype(kind), rows[inside])
        np.testing.assert_array_equal(loaded[number]["token_ids"], made.tokens[inside])
    # The types are those that datasets gives such a table itself, so it can be put beside others.
    theirs = datasets.Features(
        {
            column: datasets.Array2D((32, 256), np.dtype(kind).name),
            "token_ids": datasets.Sequence(datasets.Value("int32"), length=32),
        }
    )
    assert loaded.features.arrow_schema == theirs.arrow_schema
    datasets.concatenate_datasets([loaded, loaded.with_format(None)])


def test_batches_of_few_windows_hold_the_same(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wide values of many tokens, of which Arrow counts no more than 32 bits in a batch."""
    made = harvest(model, [[n] * 4 for n in range(1, 8)], POINT, tmp_path / "rows", context=4)
    whole = pyarrow_table(made, tmp_path / "whole")
    assert whole.column(0).num_chunks == 1
    for most, n_batches in ((2 * 4 * 256, 4), (1, 7)):
        monkeypatch.setattr(arrow, "_MOST_VALUES", most)
        found = pyarrow_table(made, tmp_path / f"batches of {most}")
        assert found.column(0).num_chunks == n_batches and found == whole


LIMITED = """
import resource, sys
from pythia_rt.harvest import Harvest, write_arrow
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    write_arrow(Harvest(sys.argv[1]), "layers.1.resid_post", sys.argv[2])
except OSError as error:
    print(error)
"""


def test_a_disk_that_fills_leaves_no_folder(model: Model, tmp_path: Path) -> None:
    made = harvest(model, [[1] * 8], POINT, tmp_path / "rows", context=4)
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", LIMITED, str(made.folder), str(tmp_path / "out" / "arrow")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    sentence = rf"cannot write {tmp_path}/out/arrow \(File too large\): free some space or .*"
    assert re.fullmatch(sentence, done.stdout.strip()) and not done.stderr
    assert not list((tmp_path / "out").iterdir())


def pyarrow_table(made: Harvest, out: Path) -> pyarrow.Table:
    write_arrow(made, POINT, out)
    (path,) = out.glob("data-*.arrow")
    with pyarrow.ipc.open_stream(path) as stream:
        return stream.read_all()


def test_windows_that_are_short_are_left_out(model: Model, tmp_path: Path) -> None:
    made = harvest(model, [[1] * 10, [2] * 3, [3] * 7], POINT, tmp_path / "rows", context=4)
    assert write_arrow(made, POINT, tmp_path / "arrow", column="mine") == 3
    loaded = datasets.load_from_disk(tmp_path / "arrow")
    assert loaded["token_ids"][:] == [[1] * 4, [1] * 4, [3] * 4]
    assert set(loaded.features) == {"mine", "token_ids"}


def test_what_cannot_be_an_arrow_folder_is_told(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = harvest(model, ["The kernel"], POINT, tmp_path / "short")
    out = tmp_path / "arrow"
    with pytest.raises(ValueError, match="has no window of 512 tokens: harvest with joined=True"):
        write_arrow(short, POINT, out)
    with pytest.raises(ValueError, match=r"has no layers\.0\.mlp_out: it has layers\.1\.resid_po"):
        write_arrow(short, OTHER, out)
    with pytest.raises(ValueError, match=r"has no other: it has layers\.1\.resid_po"):
        write_arrow(short, "other", out)
    for column in ("token_ids", "", 3):
        with pytest.raises(ValueError, match="column must be a name, and another than 'token_ids'"):
            write_arrow(short, POINT, out, column=column)  # type: ignore[arg-type]
    short.meta["complete"] = False
    with pytest.raises(ValueError, match="is not complete: harvest the rest first"):
        write_arrow(short, POINT, out)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ImportError, match=r"need pyarrow .* pip install 'pythia_rt\[arrow\]'$"):
            write_arrow(short, POINT, out)
    assert not out.exists()
    full = harvest(model, [[1] * 8], POINT, tmp_path / "full", context=4)
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(FileExistsError, match="exists: choose another folder"):
        write_arrow(full, POINT, out)
