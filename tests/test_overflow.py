"""Keys, values and logits that leave the range of their format: found, said, and what helps."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from checkpoints import make_config, write_checkpoint
from click.testing import CliRunner
from numpy.typing import NDArray

from pythia_rt import Model, _core, evaluate
from pythia_rt.cli import main
from pythia_rt.convert import FlatFile, FlatFileError, convert
from pythia_rt.insides import Add
from pythia_rt.overflow import first_not_finite

IDS = [5, 7, 11, 13]
LARGEST = 65504.0  # of a half
Tensors = dict[str, NDArray[np.float32]]


def large_bias(part: int) -> Callable[[Tensors, int], None]:
    def change(tensors: Tensors, layer: int) -> None:
        bias = tensors[f"gpt_neox.layers.{layer}.attention.query_key_value.bias"]
        bias.reshape(2, 3, 32)[:, part] = 1e5

    return change


def large_weights(part: int) -> Callable[[Tensors, int], None]:
    def change(tensors: Tensors, layer: int) -> None:
        name = f"gpt_neox.layers.{layer}.attention.query_key_value.weight"
        tensors[name].reshape(2, 3, 32, 64)[:, part] *= 1e7

    return change


def large_gain(tensors: Tensors, layer: int) -> None:
    tensors[f"gpt_neox.layers.{layer}.input_layernorm.weight"] *= 1e6


def large_shift(tensors: Tensors, layer: int) -> None:
    tensors[f"gpt_neox.layers.{layer}.input_layernorm.bias"] += 1e7


CHANGES = {
    "a bias of values": large_bias(2),
    "weights of keys": large_weights(1),
    "weights of values": large_weights(2),
    "a norm's gain": large_gain,
    "a norm's bias": large_shift,
}


def checkpoint(folder: Path, change: Callable[[Tensors, int], None]) -> Path:
    write_checkpoint(folder, make_config())
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    change(tensors, 1)  # the layer
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """A function from a change and a format to a flat file with it."""
    folder = tmp_path_factory.mktemp("large")

    def find(change: str, format: str) -> Path:
        path = folder / f"{change}.{format}"
        if not path.exists():
            if not (source := folder / change).exists():
                checkpoint(source, CHANGES[change])
            convert(source, path, format=format)
        return path

    return find


def calls(model: Model) -> dict[str, Callable[[], Any]]:
    options: dict[str, Any] = {"max_new_tokens": 3, "seed": 1}
    return {
        "generate": lambda: model.generate(IDS, **options),
        "greedy": lambda: model.generate(IDS, temperature=0, max_new_tokens=3),
        "logits": lambda: model.logits(IDS),
        "score": lambda: model.score([[1], IDS, [3, 4]]),
        "evaluate": lambda: evaluate(model, IDS),
    }


@pytest.mark.parametrize("format", ["bf16", "q8", "q4"])
@pytest.mark.parametrize("change", CHANGES)
def test_the_default_cache_holds_them(
    files: Callable[[str, str], Path], change: str, format: str
) -> None:
    model = Model.load(files(change, format))
    # Balancing before quantising makes large values smaller, which then fit into halves.
    assert model.kv_format == "f32" or format != "bf16"
    for name, call in calls(model).items():
        assert call() is not None, name
    assert np.isfinite(model.logits(IDS)).all()


@pytest.mark.parametrize("call", ["generate", "greedy", "logits", "score", "evaluate"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_cache_of_halves_says_what_helps(
    files: Callable[[str, str], Path], change: str, call: str
) -> None:
    model = Model.load(files(change, "bf16"), kv_format="f16")
    with pytest.raises((RuntimeError, ValueError), match="not finite") as caught:
        calls(model)[call]()
    assert str(caught.value).endswith(
        "its keys or values leave the range of the f16 key-value cache, so use kv_format='f32'"
    )
    assert type(caught.value) is (ValueError if call == "evaluate" else RuntimeError)


def test_a_cache_of_8_bits_has_their_range(files: Callable[[str, str], Path]) -> None:
    model = Model.load(files("a bias of values", "bf16"), kv_format="q8")
    assert np.isfinite(model.logits(IDS)).all()
    assert len(model.generate(IDS, max_new_tokens=3, logit_bias={0: -np.inf}).tokens) == 3


def test_a_stream_says_it_too(tmp_path: Path, demo_folder: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for file in demo_folder.glob("*.json"):
        (source / file.name).write_bytes(file.read_bytes())
    tensors = safetensors.numpy.load_file(demo_folder / "model.safetensors")
    name = "gpt_neox.layers.0.attention.query_key_value.bias"
    tensors[name] = np.full(tensors[name].shape, 1e5, np.float32)
    safetensors.numpy.save_file(tensors, source / "model.safetensors")
    path = convert(source, tmp_path / "large.q8", format="q8")
    with pytest.raises(RuntimeError, match=r"f16 key-value cache, so use kv_format='f32'"):
        list(Model.load(path, kv_format="f16").stream("The"))
    text = tmp_path / "text.txt"
    text.write_text("The kernel is free.")
    for command in (["generate", "The", "--model", path], ["evaluate", path, "--text", text]):
        arguments = [*map(str, command), "--quiet"]
        refused = CliRunner().invoke(main, [*arguments, "--kv-format", "f16"])
        assert refused.exit_code == 1
        assert refused.stderr.endswith("key-value cache, so use --kv-format f32\n")
        assert CliRunner().invoke(main, [*arguments, "--kv-format", "f32"]).exit_code == 0
        assert CliRunner().invoke(main, arguments).exit_code == 0
    arguments = ["evaluate", str(path), "--text", str(text), "--reference", str(path), "--quiet"]
    refused = CliRunner().invoke(main, [*arguments, "--reference-kv-format", "f16"])
    assert refused.stderr.endswith("key-value cache, so use --reference-kv-format f32\n")


@pytest.mark.parametrize("format", ["f32", "q8"])
@pytest.mark.parametrize("value", [3e38, -3e38])
def test_logits_beyond_float32(tmp_path: Path, format: str, value: float) -> None:
    def change(tensors: Tensors, _: int) -> None:
        tensors["gpt_neox.final_layer_norm.bias"][:] = value
        tensors["embed_out.weight"][9] = 8.0

    path = convert(checkpoint(tmp_path / "source", change), tmp_path / "file", format=format)
    model = Model.load(path)
    for name in ("logits", "evaluate", *(["generate", "greedy"] if value > 0 else [])):
        with pytest.raises((RuntimeError, ValueError), match="not finite") as caught:
            calls(model)[name]()
        assert "kv_format" not in str(caught.value)
        remedy = "fetch the checkpoint again" if format == "f32" else "convert the checkpoint again"
        assert remedy in str(caught.value)
    with pytest.raises(RuntimeError, match="logits after token 1 are not finite"):
        model.score([[5, 9]])


def test_edits_are_named_where_they_are_why(model: Model) -> None:
    for value in (3e38, -3e38):
        edits = [Add("layers.5.resid_post", np.full(model.spec["hidden_size"], value, np.float32))]
        with pytest.raises(RuntimeError, match="are not finite: without the edits they are"):
            model.generate("The", max_new_tokens=2, edits=edits)


def test_the_first_row_that_is_not_finite() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        for shape in ((6,), (6, 3)):
            values = np.zeros(shape, np.float32)
            assert first_not_finite(values) is None
            values[4] = values[2] = bad
            assert first_not_finite(values) == 2
    assert first_not_finite(np.empty(0, np.float32)) is None
    assert first_not_finite(np.empty((0, 5), np.float32)) is None


@pytest.mark.parametrize("logits", [np.zeros(4), ValueError("none yet"), RuntimeError("lost")])
def test_only_refused_logits_are_about_their_range(model: Model, logits: Any) -> None:
    """Another RuntimeError of a step, as of a device, is passed on as it is."""

    class Broken:
        @property
        def last_logits(self) -> Any:
            if isinstance(logits, Exception):
                raise logits
            return logits

    lost = RuntimeError("the CUDA device failed: gone")
    broken: Any = Broken()
    assert model.stream("The")._writing.explained(broken, lost) is lost


# The bound


@pytest.mark.parametrize("format", ["f32", "q8"])
@pytest.mark.parametrize("seed", range(3))
def test_no_key_or_value_exceeds_the_bound(tmp_path: Path, seed: int, format: str) -> None:
    """Against the keys and values of a layer that reads what makes each of them largest."""
    folder = write_checkpoint(tmp_path / "source", make_config(), seed=seed)
    file = FlatFile(convert(folder, tmp_path / "file", format=format))
    assert file.kv_bound is not None
    largest = 0.0
    for i in range(2):
        prefix = f"layers.{i}."
        tensors = {
            name.removeprefix(prefix): data
            for name, data in file.tensors.items()
            if name.startswith((prefix, "rope_frequencies"))
        }
        formats = {
            name.removeprefix(prefix): form
            for name, form in file.formats.items()
            if name.startswith(prefix)
        }
        parts = [tensors[f"qkv.{part}"] for part, _, _ in _core.packed_layout(format, 192, 64)]
        weight = _core.unpack(format, parts, 192, 64)[64:]
        gain = tensors["attn_norm.weight"].view(np.float32)[:64]
        hidden = np.concatenate([weight * gain, -weight * gain]).astype(np.float32)
        _, inputs = _core.Layer(dict(file.spec), formats, tensors).run(hidden, capture=True)
        found = inputs["qkv"] @ weight.T + tensors["qkv.bias"].view(np.float32)[64:192]
        largest = max(largest, float(np.abs(found).max()))
    assert largest < file.kv_bound < 2 * largest


def test_ordinary_models_have_ordinary_caches(demo_file: Callable[[str], Path]) -> None:
    for format in ("f16", "q4"):
        file = FlatFile(demo_file(format))
        assert file.kv_bound is not None
        assert 1 < file.kv_bound < 1000
        assert Model(file).kv_format == "f16"


def test_a_file_without_a_bound_and_one_with_nonsense(
    demo_file: Callable[[str], Path], tmp_path: Path
) -> None:
    content = demo_file("q8").read_bytes()
    [stated] = re.findall(rb'"pythia_rt.kv_bound":"([^"]*)"', content)
    assert len(stated) == 12
    for other, expected in ((b"9.000000e+09", "f32"), (b"9.000000e+01", "f16")):
        path = tmp_path / other.decode()
        path.write_bytes(content.replace(b'kv_bound":"' + stated, b'kv_bound":"' + other))
        assert Model.load(path).kv_format == expected
        assert Model.load(path, kv_format="q8").kv_format == "q8"
    old = tmp_path / "old"
    old.write_bytes(content.replace(b"pythia_rt.kv_bound", b"pythia_rt.other_key"[:18]))
    assert FlatFile(old).kv_bound is None
    assert Model.load(old).kv_format == "f16"
    for nonsense in (b"a lot of it!", b"nan         ", b"-1.00000e+00"):
        bad = tmp_path / "bad"
        bad.write_bytes(content.replace(b'kv_bound":"' + stated, b'kv_bound":"' + nonsense))
        with pytest.raises(FlatFileError, match="its kv_bound is no size"):
            FlatFile(bad)
