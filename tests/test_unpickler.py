"""The unpickler: what torch writes is read, anything that could run code is refused by name."""

from __future__ import annotations

import builtins
import collections
import contextlib
import io
import os
import pickle
import struct
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from convert_sources import make_tensors
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from pythia_rt.convert import CheckpointError
from pythia_rt.convert.source.unpickler import Storage, TensorView, load


class Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.parts = (function, arguments)

    def __reduce__(self) -> Any:
        return self.parts


def read(data: bytes) -> Any:
    return load(io.BytesIO(data), "file.bin")


def state_pickle(state: Any) -> bytes:
    """Return the data.pkl that torch.save writes for `state`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return archive.read("archive/data.pkl")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_what_torch_writes(protocol: int) -> None:
    buffer = io.BytesIO()
    state = collections.OrderedDict(a=torch.zeros(2, 3).half(), b=torch.nn.Parameter(torch.ones(4)))
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]  # as a module's has
    torch.save(state, buffer, pickle_protocol=protocol)
    with zipfile.ZipFile(buffer) as archive:
        value = read(archive.read("archive/data.pkl"))
    assert value == {
        "a": TensorView(Storage("F16", "0", 6), 0, (2, 3), (3, 1)),
        "b": TensorView(Storage("F32", "1", 4), 0, (4,), (1,)),
    }


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "int32", "int64", "bool", "float64", "bfloat16"]
)
def test_reads_every_common_dtype(dtype: str) -> None:
    tensor = torch.zeros(3, dtype=getattr(torch, dtype))
    assert read(state_pickle({"t": tensor}))["t"].shape == (3,)


def test_a_tensor_that_is_stored_negated_is_refused() -> None:
    with pytest.raises(CheckpointError, match="stored negated"):
        read(state_pickle({"t": torch._neg_view(torch.ones(3))}))


TRAPS: dict[str, tuple[Any, str]] = {
    "os.system": (Call(os.system, "touch {}"), "posix.system"),
    "eval": (Call(builtins.eval, "__import__('os').mkdir('{}')"), "builtins.eval"),
    "exec": (Call(builtins.exec, "__import__('os').mkdir('{}')"), "builtins.exec"),
    "open": (Call(builtins.open, "{}", "w"), "io.open"),
    "import": (Call(builtins.__import__, "os"), "builtins.__import__"),
    "subprocess": (Call(subprocess.check_output, ["touch", "{}"]), "subprocess.check_output"),
    "torch.load": (Call(torch.load, "{}"), "torch.serialization.load"),
    "class": (Path("{}"), "pathlib.PosixPath"),
}


def fill(value: Any, path: Path) -> Any:
    """Put `path` where a trap says {}."""
    if isinstance(value, Call):
        function, arguments = value.parts
        return Call(function, *[fill(argument, path) for argument in arguments])
    if isinstance(value, list):
        return [fill(item, path) for item in value]
    return value.format(path) if isinstance(value, str) else value


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("nesting", ["bare", "dict", "deep"])
@pytest.mark.parametrize("trap", TRAPS)
def test_code_is_refused_by_name_and_not_executed(
    tmp_path: Path, trap: str, nesting: str, protocol: int
) -> None:
    value, name = TRAPS[trap]
    target = tmp_path / "executed"
    value = fill(value, target)
    if nesting != "bare":
        value = {"a": value} if nesting == "dict" else {"a": [({"b": (1, value)},)]}
    data = pickle.dumps(value, protocol)
    with pytest.raises(CheckpointError) as error:
        read(data)
    if protocol >= 2:  # older ones fall at their first instruction
        _module, function = name.rsplit(".", 1)
        assert function in str(error.value)
        assert "refused and not executed" in str(error.value)
    assert not target.exists()
    if trap in ("os.system", "eval", "exec"):  # the trap would have worked
        pickle.loads(data)
        assert target.exists()


def test_stack_global_is_looked_up_like_any_other() -> None:
    data = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."
    with pytest.raises(CheckpointError, match=r"'posix\.system'.*refused and not executed"):
        read(data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("os.system", b"(S'true'\nios\nsystem\n."),  # INST, after text of protocol 0
        ("os.system", b"\x80\x02(ios\nsystem\n."),
        ("os.system", b"\x80\x02cos\nsystem\n(X\x04\x00\x00\x00truetR."),
        ("torch.LongStorage.x", b"\x80\x02ctorch\nLongStorage.x\n."),
        ("torch._utils._rebuild_tensor", b"\x80\x02ctorch._utils\n_rebuild_tensor\n."),
        ("torch.storage._load_from_bytes", b"\x80\x02ctorch.storage\n_load_from_bytes\n."),
    ],
)
def test_globals_are_named(name: str, data: bytes) -> None:
    with pytest.raises(CheckpointError) as error:
        read(data)
    if data.startswith(b"\x80"):
        assert repr(name) in str(error.value)


@pytest.mark.parametrize(
    ("instruction", "data"),
    [
        ("EXT1", b"\x80\x02\x82\x01."),
        ("OBJ", b"\x80\x02(o."),
        ("NEWOBJ", b"\x80\x02))\x81."),
        ("PERSID", b"\x80\x02Pid\n."),
        ("BYTEARRAY8", b"\x80\x05\x96" + struct.pack("<Q", 1) + b"a."),
        ("NEXT_BUFFER", b"\x80\x05\x97."),
        ("DUP", b"\x80\x02)2."),
    ],
)
def test_other_instructions_are_refused(instruction: str, data: bytes) -> None:
    with pytest.raises(CheckpointError, match=f"instruction {instruction},"):
        read(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02.",
        b"\x80\x02}",
        b"\x80\x02R.",
        b"\x80\x02(.",
        b"\x80\x02h\x05.",  # memo without entry
        b"\x80\x02}(NK\x02u.",  # a key that is no name
        b"\x80\x02}(\x8a\x09" + b"\x01" * 9 + b"K\x02u.",  # nor a small number
        b"\x80\x02}(\x88K\x02u.",
        b"\x80\x02}(X\x01\x00\x00\x00au.",  # a key without value
        b"\x80\x02K\x01K\x02b.",  # BUILD of a number
        b"\x80\x02K\x01Q.",  # a persistent id that is no storage
        b"\x80\x02X\xff\xff\xff\x7fabc.",  # a string longer than the file
        b"\x80\x02\x8d" + b"\xff" * 8 + b".",
        b"\x80\x02\x8b\xff\xff\xff\x7f.",
        b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_parameter\n)R.",
    ],
)
def test_damage_is_an_error(data: bytes) -> None:
    with pytest.raises(CheckpointError):
        read(data)


@pytest.mark.parametrize(
    "pid",
    [
        ("module", "0", "cpu", 6),
        ("storage", "0", "cpu", -1),
        ("storage", "0", "cpu", 1 << 60),
        ("storage", "0", "cpu", True),
        ("storage", "0", "cpu", 6, ("view", 0, 3)),
        ("storage", 0, "cpu", 6),
    ],
)
def test_storages_must_make_sense(pid: tuple[Any, ...]) -> None:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return (pid[0], torch.HalfStorage, *pid[1:]) if value == "here" else None

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"t": "here"})
    with pytest.raises(CheckpointError, match="damaged pickle"):
        read(buffer.getvalue())


def test_exponential_structures_cost_nothing() -> None:
    # 60 tuples, each twice the one before, as a value; hashing or printing them would never end.
    body = b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
    value = read(b"\x80\x02}X\x01\x00\x00\x00a" + body + b"s.")
    assert len(value["a"]) == 2
    with pytest.raises(CheckpointError):
        read(b"\x80\x02}" + body + b"K\x01s.")


STATE = state_pickle(dict(list(make_tensors().items())[:6]))


@given(st.data())
@settings(max_examples=examples(300), deadline=None)
def test_mutated_pickles_never_crash(data: st.DataObject) -> None:
    raw = bytearray(STATE)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)) | st.just(len(raw)))
    try:
        read(bytes(raw[:cut]))
    except CheckpointError as error:
        assert str(error).startswith("file.bin ")
        assert str(error).isprintable()


@given(st.binary(max_size=200))
@settings(max_examples=examples(300), deadline=None)
def test_random_bytes_never_crash(raw: bytes) -> None:
    with contextlib.suppress(CheckpointError):
        read(b"\x80\x02" + raw)
