"""Folders of activations: their values, how texts are cut, and that any interruption is made up."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from checkpoints import make_config, write_checkpoint
from click.testing import CliRunner
from filelock import FileLock
from numpy.typing import NDArray

import pythia_rt
from pythia_rt import Model, _core
from pythia_rt.cli import main
from pythia_rt.convert import convert
from pythia_rt.harvest import Harvest, corpus, harvest
from pythia_rt.insides.lookup import Names
from pythia_rt.insides.names import BY_NAME, canonical
from pythia_rt.overflow import all_finite

POINTS = ("layers.1.resid_post", "layers.0.mlp_out")
TEXTS = ("The kernel is a program.", "", "Files are read by it, and written.", "x", "")


@pytest.fixture(scope="module")
def model(demo_file: Callable[[str], Path]) -> Model:
    return Model.load(demo_file("f32"), threads=2)


def contents(folder: Path) -> dict[str, bytes]:
    """What is in a folder, but for the lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def expected(model: Model, windows: list[list[int]], point: str) -> NDArray[np.float32]:
    """The rows of windows that are read one after another."""
    _, layer, name = point.split(".")
    rows = [
        _core.run(
            [model.new_session(len(window))], [np.array(window, np.int32)],
            capture=[(name, int(layer))],
        )[1][0]
        for window in windows
    ]  # fmt: skip
    return np.concatenate(rows)


def plainly(
    documents: list[list[int]], context: int, *, bos: int | None, end: int | None, most: int | None
) -> tuple[list[list[int]], list[int]]:
    """Windows, and where documents begin, token by token."""
    first = [] if bos is None else [bos]
    windows: list[list[int]] = []
    starts = []
    for document in documents:
        is_new = True
        for token in [*document, *([] if end is None else [end])]:
            if not windows or len(windows[-1]) == context or (is_new and end is None):
                windows.append(list(first))
                if is_new:
                    starts.append(sum(map(len, windows)) - len(first))
            elif is_new:
                starts.append(sum(map(len, windows)))
            is_new = False
            windows[-1].append(token)
        if is_new:  # empty: where the next one begins
            starts.append(-1)
    n_tokens = sum(map(len, windows))
    for number in reversed(range(len(starts))):
        if starts[number] < 0:
            starts[number] = n_tokens if number + 1 == len(starts) else starts[number + 1]
    if most is not None:
        ends = np.cumsum([len(window) for window in windows])
        begins = ends - [len(window) for window in windows]
        windows = [w[: max(0, most - int(b))] for w, b in zip(windows, begins, strict=True)]
        windows = [window for window in windows if window]
        kept = sum(map(len, windows))
        starts = [start for start in starts if start < kept or kept != most]
        n_tokens = kept
    return windows, [*starts, n_tokens]


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("prepend_bos", [False, True])
@pytest.mark.parametrize("most", [None, 17])
def test_rows_are_those_of_each_window_alone(
    model: Model, tmp_path: Path, joined: bool, prepend_bos: bool, most: int | None
) -> None:
    assert model.tokenizer is not None
    made = harvest(
        model, [*TEXTS, [5, 6, 7]], POINTS, tmp_path / "out", context=6, dtype="f32",
        joined=joined, prepend_bos=prepend_bos, max_tokens=most, shard_tokens=13,
    )  # fmt: skip
    documents = [*map(model.tokenizer.encode, TEXTS), [5, 6, 7]]
    bos, end = model.spec["bos_id"], model.spec["eos_ids"][0]
    windows, starts = plainly(
        documents, 6, bos=bos if prepend_bos else None, end=end if joined else None, most=most
    )
    assert made.tokens.tolist() == [token for window in windows for token in window]
    assert made.documents.tolist() == starts
    assert made.windows.tolist() == np.cumsum([0, *map(len, windows)]).tolist()
    assert made.is_complete and made.points == list(POINTS)
    for point in POINTS:
        shards = list(made.shards(point))
        assert len(shards) > 1 and all(len(shard) <= 13 for shard in shards)
        found = np.concatenate(shards)
        np.testing.assert_array_equal(found, expected(model, windows, point))


def test_every_point_with_rows_is_had_as_model_run_gives_it(
    demo_file: Callable[[str], Path], tmp_path: Path
) -> None:
    """In the checkpoint's basis, which is not that of a balanced file."""
    balanced = Model.load(demo_file("q8"), threads=2)
    points = [
        canonical(place)
        for place in Names(balanced.file.spec).all
        if BY_NAME[place.point].shape not in ("scores", "results") and place.layer in (-1, 5)
    ]
    windows = [[5, 6, 7, 8], [9, 10]]
    made = harvest(balanced, windows, points, tmp_path / "out", dtype="f32")
    assert made.points == points and len(points) > 20
    for point in points:
        [rows] = made.shards(point)
        each = [balanced.run(window, point).flat(point) for window in windows]
        wanted = np.concatenate([part.reshape(len(part), -1) for part in each])
        np.testing.assert_array_equal(rows, wanted, point)
    others = ["blocks.1.attn.hook_q", ("mlp_post", -1)]
    made = harvest(balanced, windows, others, tmp_path / "others")
    assert made.points == ["layers.1.q", "layers.5.mlp_post"]


@pytest.mark.parametrize(
    ("points", "end"),
    [
        ("embed", 1),
        (["layers.1.mlp_out", "layers.0.q"], 2),
        (["embed", "final_norm"], None),
    ],
)
def test_nothing_runs_that_is_not_needed(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, points: Any, end: int | None
) -> None:
    asked = []
    run = _core.run

    def seen(*given: Any, **options: Any) -> Any:
        asked.append(options)
        return run(*given, **options)

    monkeypatch.setattr(_core, "run", seen)
    harvest(model, TEXTS, points, tmp_path / "out")
    assert asked
    assert all(options["logits"] == "none" for options in asked)
    assert all(options["end_layer"] == end for options in asked)


def test_halves_are_the_rounded_values_and_nothing_depends_on_the_machine(
    model: Model, demo_file: Callable[[str], Path], tmp_path: Path, technical_text: str
) -> None:
    texts = [technical_text[:3000], technical_text[3000:4000]]
    options: dict[str, Any] = {"context": 64, "shard_tokens": 200}
    made = harvest(model, texts, POINTS, tmp_path / "f16", **options)
    exact = harvest(model, texts, POINTS, tmp_path / "f32", dtype="f32", **options)
    for point in POINTS:
        for half, single in zip(made.shards(point), exact.shards(point), strict=True):
            assert half.dtype == np.float16 and single.dtype == np.float32
            np.testing.assert_array_equal(half, single.astype(np.float16))
    one = Model.load(demo_file("f32"), threads=1)
    harvest(one, iter(texts), iter(POINTS), tmp_path / "one", **options)
    assert contents(tmp_path / "one") == contents(tmp_path / "f16")


def test_meta_says_what_it_is_of(model: Model, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXTS[0])
    made = harvest(model, [tmp_path / "a.txt"], "layers.*.resid_post", tmp_path / "out")
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert meta == made.meta == Harvest(tmp_path / "out").meta
    assert meta["points"] == {f"layers.{i}.resid_post": 256 for i in range(6)}
    assert meta["producer"] == f"pythia_rt {pythia_rt.__version__}"
    about = model.file.metadata
    assert meta["model"] == about["source"] and meta["data_sha256"] == about["data_sha256"]
    assert (meta["format"], meta["dtype"], meta["context"]) == ("f32", "f16", 512)
    digest = hashlib.sha256(TEXTS[0].encode()).hexdigest()
    assert meta["files"] == [{"name": "a.txt", "sha256": digest}]
    assert meta["tokens_sha256"] == hashlib.sha256(made.tokens.tobytes()).hexdigest()
    for point, digest in meta["shards"][0]["sha256"].items():
        content = (tmp_path / "out" / point / "00000.npy").read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
    with pytest.raises(ValueError, match=r"out has no embed: it has layers\.0\.resid_post, "):
        next(made.shards("embed"))


def test_files_are_documents_and_lines_of_jsonl_too(model: Model, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffThe kernel\r\nis".encode())
    lines = [json.dumps({"text": text, "id": 1}) for text in ("Files", "", "are read")]
    (tmp_path / "b.jsonl").write_text("\n".join(lines) + "\n")
    paths = [tmp_path / "a.txt", tmp_path / "b.jsonl"]
    made = harvest(model, paths, POINTS[0], tmp_path / "out")
    same = harvest(model, ["The kernel\nis", "Files", "", "are read"], POINTS[0], tmp_path / "same")
    assert made.tokens.tolist() == same.tokens.tolist()
    assert made.documents.tolist() == same.documents.tolist()


def test_a_long_text_is_encoded_in_pieces_to_the_same_tokens(
    model: Model, technical_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "_PIECE", 700)
    cut = corpus.read_cut(model, None, prepend_bos=False, joined=False, max_tokens=None)
    [(ids, _)] = corpus.read_documents(model, [technical_text], cut)
    assert model.tokenizer is not None and len(technical_text) > 100 * 700
    assert ids.tolist() == model.tokenizer.encode(technical_text)


def test_what_float16_cannot_hold_is_told_with_its_point(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "large", make_config())
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors["gpt_neox.layers.1.mlp.dense_4h_to_h.bias"][3] = 66000
    safetensors.numpy.save_file(tensors, path)
    large = Model.load(convert(folder, tmp_path / "large.safetensors", format="f32"))
    texts = [[1, 2, 3, 4]] * 4
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match=r"^layers\.1\.resid_post has .* beyond 65504") as e:
        harvest(large, texts, "layers.*.resid_post", out, shard_tokens=4)
    assert str(e.value).endswith("use dtype='f32'; 0 of 16 tokens are written and stay")
    made = harvest(large, texts, "layers.*.resid_post", tmp_path / "f32", dtype="f32")
    assert np.concatenate(list(made.shards("layers.1.resid_post"))).max() > 65504
    harvest(large, texts, "layers.0.resid_post", tmp_path / "first")  # which is not that large


def every_half() -> Iterator[tuple[np.float16, bool]]:
    for bits in (0x0, 0x7BFF, 0x7C00, 0x7C01, 0x7FFF, 0x8000, 0xFBFF, 0xFC00, 0xFE00, 0xFFFF):
        value = np.array([bits], np.uint16).view(np.float16)[0]
        yield value, bool(np.isfinite(value))


def test_all_finite_is_exact() -> None:
    for value, is_finite in every_half():
        rows = np.zeros((3, 4), np.float16)
        rows[1, 2] = value
        assert all_finite(rows) == is_finite, value
    assert all_finite(np.zeros((0, 4), np.float16))
    for value in (np.nan, np.inf, -np.inf):
        assert not all_finite(np.array([[1, value, 1]], np.float32))
    assert all_finite(np.array([[3e38, -3e38]], np.float32))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"points": "layers.1.resid"}, "near ones are layers.1.resid_p"),
    ({"points": "layers.0.pattern"}, r"layers\.0\.pattern cannot be harvested"),
    ({"points": "layers.0.result"}, r"layers\.0\.result cannot be harvested"),
    ({"points": []}, "points must name at least one"),
    ({"points": "layers.9.resid_post"}, "there is no layer 9"),
    ({"texts": "a text"}, "texts must be a list"),
    ({"texts": [""]}, "texts have no token"),
    ({"texts": [3]}, "^text 1: the prompt must be a str or a sequence of token ids, not int"),
    ({"texts": ["a", [1 << 20]]}, "^text 2: token id 1048576 is not in the vocabulary"),
    ({"texts": [Path("missing.txt")]}, "missing.txt does not exist"),
    ({"context": 0}, "context must be from 1 to 2048 tokens, not 0"),
    ({"context": 1, "prepend_bos": True}, "context must be from 2 to 2048 tokens, not 1"),
    ({"context": 4096}, "context must be"),
    ({"dtype": "f64"}, "dtype must be one of f16, f32, not 'f64'"),
    ({"shard_tokens": 0}, "shard_tokens must be from 1"),
    ({"max_tokens": 0}, "max_tokens must be from 1"),
    ({"joined": 1}, "joined must be True or False"),
]


@pytest.mark.parametrize(("changed", "words"), BAD, ids=lambda value: str(value)[:40])
def test_bad_arguments_are_refused_before_anything_is_written(
    model: Model, tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    given = {"texts": ["a"], "points": POINTS[0], "out": tmp_path / "out", **changed}
    with pytest.raises((ValueError, OSError), match=words):
        harvest(model, **given)
    assert not list(tmp_path.iterdir())


def test_folders_that_hold_something_else_are_left_alone(model: Model, tmp_path: Path) -> None:
    out = tmp_path / "out"
    harvest(model, ["The kernel"], POINTS[0], out)
    before = contents(out)
    with pytest.raises(ValueError, match=r"another harvest, whose context is '512' and not '8'"):
        harvest(model, ["The kernel"], POINTS[0], out, context=8)
    with pytest.raises(ValueError, match="another harvest, whose n_tokens is"):
        harvest(model, ["The kernel of it"], POINTS[0], out)
    with pytest.raises(ValueError, match="another harvest, whose points is"):
        harvest(model, ["The kernel"], POINTS[1], out)
    with FileLock(out / ".lock"), pytest.raises(RuntimeError, match="another process harvests"):
        harvest(model, ["The kernel"], POINTS[0], out)
    assert contents(out) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="other holds something else"):
        harvest(model, ["The kernel"], POINTS[0], tmp_path / "other")
    with pytest.raises(FileExistsError, match=r"mine\.txt is a file"):
        harvest(model, ["The kernel"], POINTS[0], tmp_path / "other" / "mine.txt")
    right = json.loads((out / "meta.json").read_text())
    lacking = [{key: right[key] for key in right if key != lost} for lost in ("complete", "shards")]
    others = [{**right, "points": {POINTS[0]: "256"}}, {**right, "context": 0}, *lacking]
    for content in (
        "{",
        "[]",
        '{"layout": 1, "shards": 3, "points": {}}',
        *map(json.dumps, others),
    ):
        (out / "meta.json").write_text(content)
        with pytest.raises(ValueError, match=r"meta\.json is not what"):
            Harvest(out)
    with pytest.raises(FileNotFoundError, match="it is no harvest"):
        Harvest(tmp_path / "other")


def test_the_same_tokens_in_other_documents_are_another_harvest(
    model: Model, tmp_path: Path
) -> None:
    """As many documents and windows, of the same tokens: the digest of these does not tell them."""
    out = tmp_path / "out"
    harvest(model, [[1, 2], [3]], POINTS[0], out)
    before = contents(out)
    with pytest.raises(ValueError, match=r"another harvest, whose documents\.npy is another"):
        harvest(model, [[1], [2, 3]], POINTS[0], out)
    assert contents(out) == before
    harvest(model, [[1, 2], [3]], POINTS[0], out)
    assert contents(out) == before


def test_numbers_may_be_numpys(model: Model, tmp_path: Path) -> None:
    options = {"context": 4, "shard_tokens": 8, "max_tokens": 9}
    plain = harvest(model, TEXTS, POINTS[0], tmp_path / "plain", **options)
    theirs = {name: np.int64(value) for name, value in options.items()}
    found = harvest(model, TEXTS, POINTS[0], tmp_path / "theirs", **theirs)
    assert contents(found.folder) == contents(plain.folder)


def test_what_is_wrong_with_a_text_says_where_it_is(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b\\ud800"}\n')
    with pytest.raises(ValueError, match=r"^line 2 of .*texts\.jsonl: .* lone surrogate"):
        harvest(model, [path], POINTS[0], tmp_path / "out")
    reading, writing = os.pipe()
    os.write(writing, b"The kernel")
    os.close(writing)
    with pytest.raises(ValueError, match=rf"^/dev/fd/{reading} is not a regular file"):
        harvest(model, [Path(f"/dev/fd/{reading}")], POINTS[0], tmp_path / "out")
    os.close(reading)
    with pytest.raises(OSError, match=r"cannot write in .*jsonl/out \(Not a dir.*choose another"):
        harvest(model, ["a"], POINTS[0], path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_are_lost_or_damaged_are_told_and_come_again(
    model: Model, tmp_path: Path
) -> None:
    made = harvest(model, ["The kernel"], POINTS[0], tmp_path / "out")
    before = contents(made.folder)
    path = made.folder / POINTS[0] / "00000.npy"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"00000\.npy is damaged: delete it and make the same"):
        list(made.shards(POINTS[0]))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"00000\.npy is missing: make the same harvest"):
        list(made.shards(POINTS[0]))
    (made.folder / "windows.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"windows\.npy is missing: make the same harvest"):
        _ = made.windows
    harvest(model, ["The kernel"], POINTS[0], made.folder)
    assert contents(made.folder) == before


def test_the_command_writes_the_same(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text(TEXTS[0])
    Path("b.txt").write_text(TEXTS[2])
    options = ["--context", "6", "--prepend-bos", "--joined", "--shard-tokens", "7", "--quiet"]
    command = ["harvest", str(model.file.path), "out", "--text", "a.txt", "--text", "b.txt"]
    command += ["--points", POINTS[0], "--points", POINTS[1]]
    done = CliRunner().invoke(main, [*command, *options, "--max-tokens", "10"])
    assert (done.exit_code, done.output) == (0, "")
    harvest(
        model, [Path("a.txt"), Path("b.txt")], POINTS, "same", context=6, prepend_bos=True,
        joined=True, shard_tokens=7, max_tokens=10,
    )  # fmt: skip
    assert contents(Path("out")) == contents(Path("same"))
    done = CliRunner().invoke(main, [*command, *options[:-1]])
    assert done.exit_code == 1
    assert re.fullmatch(
        r"Error: out holds another harvest, whose --max-tokens is '10' and not 'None': choose .*\n",
        done.stderr,
    ), done.stderr
    missing = CliRunner().invoke(main, ["harvest", "x", "out", "--text", "a.txt"])
    assert missing.exit_code == 2 and "--points" in missing.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--points layers.1.resid", "near ones are layers.1.resid_p"),
        ("--points layers.*.resid", "no point of this model matches 'layers.*.resid'"),
        ("--points layers.0.pattern", "layers.0.pattern cannot be harvested"),
        ("--text missing.txt", "missing.txt does not exist: give a text file"),
        ("--text .", ". is a folder: give a text file"),
        ("--context 0", "--context must be 1 or more tokens, not 0"),
        ("--context 1 --prepend-bos", "--context must be 2 or more tokens, not 1"),
        ("--dtype f64", "--dtype must be one of f16, f32, not 'f64'"),
        ("--shard-tokens 0", "--shard-tokens must be from 1"),
        ("--max-tokens 0", "--max-tokens must be from 1"),
        ("--out a.txt", "a.txt is a file: choose another folder"),
        ("--out a.txt/b", "cannot write in a.txt/b (Not a directory)"),
        ("--out mine", "mine holds something else: choose another folder"),
    ],
)
def test_the_command_tells_what_is_wrong_before_there_is_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text(TEXTS[0])
    Path("mine").mkdir()
    Path("mine/file").touch()
    given = options.split()
    out = given.pop() if given[0] == "--out" else "out"
    command = ["harvest", "nobody/has-this", out, "--text", "a.txt", "--points", "layers.*.z"]
    done = CliRunner().invoke(main, [*command, *(given if out == "out" else [])])
    assert done.exit_code == 1 and words in done.stderr and done.stderr.count("\n") == 1
    assert not Path("out").exists()
    # What only the model knows is not refused: layers, its context, points that it lacks.
    known = ["--points", "layers.30.resid_mid", "--context", "100000", "--local-files-only"]
    done = CliRunner().invoke(main, [*command[:2], "out", *command[3:], *known])
    assert done.exit_code == 1 and "nobody/has-this" in done.stderr
