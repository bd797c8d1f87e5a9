"""Conversions that must fail: each says why in one sentence, and leaves no file behind."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from convert_sources import (
    KINDS,
    VOCAB,
    make_config,
    make_tensors,
    make_tokenizer,
    write_checkpoint,
)
from pythia_rt.convert import CheckpointError, FlatFile, atomic, conversion, convert, weights

LAYER = "gpt_neox.layers.1."
QKV = f"{LAYER}attention.query_key_value"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "source")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder; the file to write is out / "flat"."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def refuse(tmp_path: Path, tensors: Any = None, **options: Any) -> str:
    """Return the sentence with which a checkpoint of these tensors is refused."""
    given = {key: options.pop(key) for key in ("config", "tokenizer") if key in options}
    folder = write_checkpoint(tmp_path / "bad", tensors, **given)
    (tmp_path / "left").mkdir()
    with pytest.raises(CheckpointError) as error:
        convert(folder, tmp_path / "left" / "flat", **options)
    assert not list((tmp_path / "left").iterdir())
    return str(error.value)


# What the checkpoint holds.


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "name",
    [
        "gpt_neox.embed_in.weight",
        "embed_out.weight",
        f"{LAYER}mlp.dense_4h_to_h.weight",
        f"{QKV}.weight",
        f"{QKV}.bias",
        "gpt_neox.final_layer_norm.weight",
    ],
)
def test_values_that_are_not_finite_name_the_tensor_and_its_row(
    tmp_path: Path, name: str, dtype: torch.dtype, value: str
) -> None:
    tensors = make_tensors(dtype)
    tensors[name][37] = float(value)
    sentence = refuse(tmp_path, tensors)
    assert repr(name) in sentence
    assert "not finite" in sentence
    assert "row 37:" in sentence


def test_rows_are_named_in_later_chunks_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "CHUNK_BYTES", 1)
    tensors = make_tensors()
    tensors[f"{QKV}.weight"][200, 3] = float("nan")
    assert "row 200:" in refuse(tmp_path, tensors)


def test_values_beyond_f16_name_the_tensor(tmp_path: Path) -> None:
    tensors = make_tensors(torch.float32)
    tensors["embed_out.weight"][3, 4] = 1e6
    sentence = refuse(tmp_path, tensors, format="f16")
    assert "'embed_out.weight' does not fit the format f16" in sentence


BUFFERS = ("attention.bias", "masked_bias", "inv_freq")


@pytest.mark.parametrize("name", [name for name in make_tensors() if not name.endswith(BUFFERS)])
def test_a_missing_tensor_is_named(tmp_path: Path, name: str) -> None:
    tensors = make_tensors()
    del tensors[name]
    sentence = refuse(tmp_path, tensors)
    assert repr(name) in sentence
    assert "missing" in sentence


@pytest.mark.parametrize(
    "name",
    [
        "gpt_neox.layers.2.attention.dense.weight",
        "gpt_neox.layers.0.attention.dense.lora_A.weight",
        "score.weight",
        "embed_out.bias",
        "final_layer_norm.weight",
        "gpt_neox.layers.0.attention.bias.extra",
    ],
)
def test_a_surplus_tensor_is_named(tmp_path: Path, name: str) -> None:
    sentence = refuse(tmp_path, make_tensors() | {name: torch.ones(3)})
    assert f"{name!r} (1 in all) does not belong" in sentence


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (f"{QKV}.weight", (215, 72)),
        (f"{QKV}.weight", (72, 216)),
        (f"{QKV}.weight", (216 * 72,)),
        (f"{QKV}.bias", (216, 1)),
        (f"{LAYER}mlp.dense_h_to_4h.weight", (72, 80)),
        ("embed_out.weight", (VOCAB + 1, 72)),
        ("gpt_neox.embed_in.weight", (VOCAB, 71)),
        ("gpt_neox.final_layer_norm.weight", ()),
    ],
)
def test_a_wrong_shape_is_named(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    sentence = refuse(tmp_path, make_tensors() | {name: torch.ones(shape)})
    assert repr(name) in sentence
    assert str(list(shape)) in sentence


def test_an_embedding_that_is_no_matrix(tmp_path: Path) -> None:
    tensors = make_tensors() | {"gpt_neox.embed_in.weight": torch.ones(100)}
    assert "not a matrix" in refuse(tmp_path, tensors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_other_dtypes_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = make_tensors()
    tensors["embed_out.weight"] = tensors["embed_out.weight"].to(dtype)
    assert "save the checkpoint as F32, F16, BF16 first" in refuse(tmp_path, tensors)


def test_an_unknown_dtype_in_a_pickle_is_refused(tmp_path: Path, out: Path) -> None:
    tensors = make_tensors() | {"embed_out.weight": torch.ones(VOCAB, 72).to(torch.float8_e5m2)}
    with pytest.raises(CheckpointError, match="_rebuild_tensor_v3"):
        convert(write_checkpoint(tmp_path / "s", tensors, kind="bin"), out / "flat")


def test_a_config_of_another_model_is_refused(tmp_path: Path) -> None:
    assert "layers.2" in refuse(tmp_path, config=make_config(num_hidden_layers=3))


def test_a_config_cannot_ask_for_endless_layers(tmp_path: Path) -> None:
    assert "asks for 16000000 layers" in refuse(
        tmp_path, config=make_config(num_hidden_layers=16_000_000)
    )


def test_a_head_that_contradicts_the_config(tmp_path: Path) -> None:
    sentence = refuse(tmp_path, config=make_config(tie_word_embeddings=True))
    assert "'embed_out.weight' differs from 'gpt_neox.embed_in.weight'" in sentence


def test_two_different_heads(tmp_path: Path) -> None:
    tensors = make_tensors() | {"lm_head.weight": torch.ones(VOCAB, 72).half()}
    assert "'lm_head.weight' differs from 'embed_out.weight'" in refuse(tmp_path, tensors)


def test_a_tensor_that_is_not_contiguous(tmp_path: Path, out: Path) -> None:
    tensors = make_tensors()
    name = f"{LAYER}attention.dense.weight"
    tensors[name] = tensors[name].t()
    folder = write_checkpoint(tmp_path / "s", tensors, kind="bin")
    with pytest.raises(CheckpointError, match=f"'{name}' is not stored row by row"):
        convert(folder, out / "flat")


@pytest.mark.parametrize(
    ("tokenizer", "says"),
    [
        (make_tokenizer(VOCAB + 1), "101 ids and the embedding 100 rows"),
        ({"model": {}}, "damaged vocabulary"),
        ({"model": {"vocab": {"a": -1}}}, "damaged vocabulary"),
        ({"model": {"vocab": {"a": "1"}}}, "damaged vocabulary"),
        ({"model": {"vocab": {"a": 1 << 70}}}, "damaged vocabulary"),
        ({"model": {"vocab": {"a": 1}}, "added_tokens": [3]}, "damaged vocabulary"),
        ({"model": []}, "damaged vocabulary"),
    ],
)
def test_bad_tokenizers_are_refused(tmp_path: Path, tokenizer: Any, says: str) -> None:
    assert says in refuse(tmp_path, tokenizer=tokenizer)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_damaged_json_is_named(source: Path, out: Path, file: str, content: bytes) -> None:
    (source / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=file):
        convert(source, out / "flat")
    assert not list(out.iterdir())


def test_a_missing_config_is_named(source: Path, out: Path) -> None:
    (source / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        convert(source, out / "flat")


def test_a_flat_file_is_no_source(source: Path, out: Path) -> None:
    path = convert(source, out / "flat")
    with pytest.raises(CheckpointError, match="is a file: give the folder"):
        convert(path, out / "again")
    shutil.copy(path, source / "model.safetensors")
    with pytest.raises(CheckpointError, match="is a flat file already"):
        convert(source, out / "again")


# Arguments.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"format": "q5"}, "format 'q5' is unknown: choose one of .*q4"),
        ({"embed": ""}, "embed '' is unknown"),
        ({"head": "int8"}, "head 'int8' is unknown"),
        ({"activation": "relu"}, "activation 'relu' is unknown: choose one of gelu, gelu_tanh"),
        ({"threads": 0}, "threads must be at least 1, not 0"),
        ({"threads": -3}, "threads must be at least 1"),
        ({"revision": "step3000"}, "is a folder, which has no revisions"),
    ],
)
def test_bad_arguments(source: Path, out: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        convert(source, out / "flat", **options)
    assert not list(out.iterdir())


def test_a_head_format_for_a_tied_model(tmp_path: Path, out: Path) -> None:
    tensors = make_tensors()
    del tensors["embed_out.weight"]
    config = make_config(tie_word_embeddings=True)
    folder = write_checkpoint(tmp_path / "s", tensors, config=config)
    with pytest.raises(ValueError, match="head has no effect"):
        convert(folder, out / "flat", head="q8")


# The destination.


def test_an_existing_destination_needs_force(source: Path, out: Path) -> None:
    (out / "flat").write_text("precious")
    with pytest.raises(FileExistsError, match="exists: choose another name or pass --force"):
        convert(source, out / "flat")
    assert (out / "flat").read_text() == "precious"
    FlatFile(convert(source, out / "flat", force=True)).verify()
    assert os.listdir(out) == ["flat"]  # noqa: PTH208


def test_a_dangling_link_counts_as_existing(source: Path, out: Path) -> None:
    (out / "flat").symlink_to(out / "nowhere")
    with pytest.raises(FileExistsError):
        convert(source, out / "flat")


def test_a_destination_that_appears_meanwhile_is_kept(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = weights.pack_chunk

    def slow(*arguments: Any) -> Any:
        (out / "flat").write_text("precious")
        return pack(*arguments)

    monkeypatch.setattr(conversion, "pack_chunk", slow)
    with pytest.raises(FileExistsError):
        convert(source, out / "flat")
    assert [(p.name, p.read_text()) for p in out.iterdir()] == [("flat", "precious")]


def test_a_failure_keeps_what_force_would_replace(tmp_path: Path, out: Path) -> None:
    tensors = make_tensors()
    tensors["embed_out.weight"][0] = float("nan")
    (out / "flat").write_text("precious")
    with pytest.raises(CheckpointError):
        convert(write_checkpoint(tmp_path / "s", tensors), out / "flat", force=True)
    assert [(p.name, p.read_text()) for p in out.iterdir()] == [("flat", "precious")]


@pytest.mark.parametrize("kind", KINDS)
def test_the_source_is_never_overwritten(tmp_path: Path, kind: str) -> None:
    folder = write_checkpoint(tmp_path / "s", kind=kind)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for path in before:
        with pytest.raises(ValueError, match="is a file of the source"):
            convert(folder, path, force=True)
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").hardlink_to(path)
        with pytest.raises(ValueError, match="is a file of the source"):
            convert(folder, tmp_path / "link", force=True)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_as_destination(source: Path, out: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a folder: name a file in it"):
        convert(source, out)
    with pytest.raises(IsADirectoryError):
        convert(source, out, force=True)


def test_a_missing_folder_of_the_destination(source: Path, out: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a folder: create it first"):
        convert(source, out / "gone" / "flat")
    (out / "file").write_text("")
    with pytest.raises(FileNotFoundError):
        convert(source, out / "file" / "flat")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_an_unwritable_destination(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    # Root may write anywhere, so the system's answer is imitated.
    def refuse_creation(path: Any, flags: int, *mode: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(code, os.strerror(code), str(path))
        return open_file(path, flags, *mode)

    open_file = os.open
    monkeypatch.setattr(os, "open", refuse_creation)
    with pytest.raises(OSError, match=r"cannot write in .*: choose another folder") as error:
        convert(source, out / "flat")
    assert error.value.errno == code
    assert not str(error.value).startswith("[Errno")


# Full disks, interrupts, kills.


def test_a_disk_that_is_too_small_is_noticed_first(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(out)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"needs .* MB and its disk has 0 MB: free some") as error:
        convert(source, out / "flat")
    assert error.value.errno == errno.ENOSPC
    assert not list(out.iterdir())


@pytest.mark.parametrize("step", range(1, 40, 3))
def test_a_disk_that_fills_up_leaves_nothing(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    write, calls = os.write, 0

    def full(descriptor: int, data: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"cannot write .*flat .*: free some space") as error:
        convert(source, out / "flat")
    assert error.value.errno == errno.ENOSPC
    assert not list(out.iterdir())


@pytest.mark.parametrize("function", ["pwrite", "fsync"])
def test_a_failure_at_the_very_end_leaves_nothing(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def fail(*_: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match="Input/output error"):
        convert(source, out / "flat")
    assert not list(out.iterdir())


def test_short_writes_are_continued(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = convert(source, out / "whole").read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:1000]))
    assert convert(source, out / "pieces").read_bytes() == whole


@pytest.mark.parametrize("where", ["pack_chunk", "FlatFileWriter.finish", "count_ids"])
def test_an_interrupt_leaves_nothing(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{convert.__module__}.{where}", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(source, out / "flat")
    assert not list(out.iterdir())


CHILD = """
import signal, sys, time
import pythia_rt.convert.conversion
# A shell's background jobs inherit that interrupts are ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
module = pythia_rt.convert.conversion
pack, calls = module.pack_chunk, 0
def slow(*arguments):
    global calls
    calls += 1
    if calls == 3:
        print("waiting", flush=True)
        time.sleep(60)
    return pack(*arguments)
if sys.argv[3] == "slow":
    module.pack_chunk = slow
try:
    pythia_rt.convert.convert(sys.argv[1], sys.argv[2])
except OSError as error:
    print(error)
    sys.exit(1)
"""


def start(source: Path, out: Path, mode: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(source), str(out / "flat"), mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=out,  # -c puts it first on the path, and no package may lie there
        **options,
    )


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_kill_leaves_no_destination(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, kill: signal.Signals
) -> None:
    with start(source, out, "slow") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "waiting\n"
        names = [path.name for path in out.iterdir()]
        child.send_signal(kill)
        child.communicate()
    assert len(names) == 1  # it had begun, hidden
    assert names[0].startswith(".flat.")
    assert not (out / "flat").exists()
    if kill != signal.SIGINT:  # what is left goes with the next conversion to this name
        monkeypatch.setattr(atomic, "_ABANDONED_SECONDS", -1)
        convert(source, out / "flat")
    assert [p.name for p in out.iterdir()] == ([] if kill == signal.SIGINT else ["flat"])


def test_a_file_size_limit_leaves_nothing(source: Path, out: Path) -> None:
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731
    with start(source, out, "fast", preexec_fn=limit) as child:
        output, error = child.communicate()
    assert child.returncode == 1, error
    assert "cannot write" in output
    assert "File too large" in output
    assert not list(out.iterdir())


def test_two_conversions_at_once_do_not_disturb_each_other(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_ABANDONED_SECONDS", -1)
    with start(source, out, "slow") as child:
        assert child.stdout is not None
        child.stdout.readline()
        convert(source, out / "flat")
        # The other's file is locked, so it was not taken for abandoned.
        assert len(list(out.iterdir())) == 2
        child.send_signal(signal.SIGINT)
        child.communicate()
    assert [path.name for path in out.iterdir()] == ["flat"]


def test_young_files_are_not_taken_for_abandoned(source: Path, out: Path) -> None:
    young, old = out / ".flat.123456789abc.partial", out / ".flat.23456789abcd.partial"
    other = out / ".flat2.123456789abc.partial"
    for path in (young, old, other):
        path.write_text("")
    past = time.time() - 3600
    os.utime(old, (past, past))
    os.utime(other, (past, past))
    convert(source, out / "flat")
    assert {path.name for path in out.iterdir()} == {"flat", young.name, other.name}


def test_the_digest_thread_reports_and_ends(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    def fail(*_: Any) -> str:
        raise OSError(errno.EIO, "Input/output error")

    before = threading.active_count()
    monkeypatch.setattr("pythia_rt.convert.digests.SourceDigests._hash", fail)
    with pytest.raises(OSError, match="Input/output error"):
        convert(source, out / "flat")
    assert not list(out.iterdir())
    assert threading.active_count() == before
