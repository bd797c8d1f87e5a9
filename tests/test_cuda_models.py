"""Whole models on a CUDA device: the CPU's bits, and one sentence for what fails.

The device is the emulated one; where there is a real one, the bits are compared on that too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from backends import ORDERS, _emulated
from checkpoints import make_config, write_checkpoint
from click.testing import CliRunner

from pythia_rt import Model, devices, embedding, generating, writing
from pythia_rt import cli as command_line
from pythia_rt import model as api
from pythia_rt.convert import convert
from pythia_rt.engine import drafts, engine, scheduler
from pythia_rt.scoring import judge, methods

RESIDUALS = (True, False)
ACTIVATIONS = ("gelu", "gelu_fast")
HEADS = [(3, 32), (2, 64), (3, 80), (2, 96), (1, 128), (1, 256)]
VARIANTS = [
    (residual, activation, heads, rotary)
    for (residual, activation, heads), rotary in zip(
        itertools.product(RESIDUALS, ACTIVATIONS, HEADS), itertools.cycle((0.25, 1.0)), strict=False
    )
]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes the package's models those of the extension whose CUDA device is emulated."""
    loading = (api, devices)
    writes = (drafts, engine, generating, scheduler, writing)
    reads = (embedding, judge, methods)
    for module in (*loading, *writes, *reads):
        monkeypatch.setattr(module, "_core", _emulated)
    _emulated.set_order("fifo")
    yield
    _emulated.fail_after(-1)


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> None:
    """The CUDA device of the package's models: emulated, and a real one where there is one."""
    if request.param == "emulated":
        request.getfixturevalue("cuda")


def tiny(folder: Path, recipe: str = "q4", **config: Any) -> Path:
    """A flat file of a random model of two layers."""
    write_checkpoint(folder / "checkpoint", make_config(**config))
    return convert(folder / "checkpoint", folder / f"{recipe}.safetensors", format=recipe)


def ids(count: int, seed: int = 0) -> list[int]:
    found: list[int] = np.random.default_rng(seed).integers(0, 128, count).tolist()
    return found


def same(found: Any, expected: Any) -> None:
    np.testing.assert_array_equal(np.asarray(found).view(np.uint32), expected.view(np.uint32))


def compare(path: Path, kv_format: str | None = None, **device: Any) -> None:
    """A prompt at once, in pieces and token by token, scores, and text: all the CPU's bits."""
    expected = Model.load(path, kv_format=kv_format)
    found = Model.load(path, kv_format=kv_format, device="cuda", **device)
    tokens = ids(150)
    truth = expected.logits(tokens)
    same(found.logits(tokens), truth)
    session = found.new_session(150)
    pieces = [session.logits(np.array(tokens[a:b], np.int32)) for a, b in ((0, 9), (9, 137))]
    pieces += [session.logits(np.array([token], np.int32)) for token in tokens[137:]]
    same(np.concatenate(pieces), truth)
    texts = [tokens[:40], tokens[40:43], tokens]
    for ours, theirs in zip(found.score(texts), expected.score(texts), strict=True):
        same(ours.log_probabilities, theirs.log_probabilities)
        assert (ours.is_likeliest == theirs.is_likeliest).all()
    options: dict[str, Any] = {"max_new_tokens": 12, "seed": 3}
    assert found.generate(tokens[:5], **options).tokens == (
        expected.generate(tokens[:5], **options).tokens
    )


@pytest.mark.parametrize(("residual", "activation", "heads", "rotary"), VARIANTS)
def test_variants(
    device: None, tmp_path: Path, residual: bool, activation: str, heads: tuple[int, int],
    rotary: float,
) -> None:  # fmt: skip
    config = {
        "use_parallel_residual": residual,
        "hidden_act": activation,
        "heads": heads[0],
        "head_dim": heads[1],
        "rotary_pct": rotary,
    }
    compare(tiny(tmp_path, **config))


@pytest.mark.parametrize("recipe", ["f32", "f16", "bf16", "q8", "q6", "q5", "q4"])
def test_formats(device: None, tmp_path: Path, recipe: str, kv_format: str) -> None:
    compare(tiny(tmp_path, recipe), kv_format)


@pytest.mark.parametrize(
    "config",
    [
        {"attention_bias": False},
        {"tie_word_embeddings": True},
        {"heads": 5, "head_dim": 8, "rotary_pct": 0.5},
        {"heads": 3, "intermediate_size": 150, "vocab_size": 130},
    ],
    ids=lambda config: ", ".join(config),
)
def test_oddities(device: None, tmp_path: Path, config: dict[str, Any]) -> None:
    compare(tiny(tmp_path, **config))


@pytest.mark.parametrize("order", ORDERS)
def test_orders(cuda: None, tmp_path: Path, order: str) -> None:
    _emulated.set_order(order, 11)
    compare(tiny(tmp_path, heads=3))


def test_the_demo_model_writes_the_same(device: None, demo_file: Callable[[str], Path]) -> None:
    path = demo_file("q4")
    options: dict[str, Any] = {"temperature": 0, "max_new_tokens": 100}
    expected = Model.load(path).generate("The kernel", **options)
    found = Model.load(path, device="cuda").generate("The kernel", **options)
    assert len(found.tokens) == 100
    assert found.tokens == expected.tokens
    assert found.logprobs == expected.logprobs


def test_texts_side_by_side(cuda: None, tmp_path: Path) -> None:
    path = tiny(tmp_path)
    core = Model.load(path)._core
    truth = Model.load(path).logits(ids(20))
    model = Model.load(path, device="cuda")
    sessions = [model.new_session(20) for _ in range(5)]
    assert model._core is not core
    for session in sessions:
        session.prefill(np.array(ids(20)[:15], np.int32))
    for i in range(15, 20):
        tokens = [np.array([ids(20)[i]], np.int32)] * 5
        for logits in _emulated.forward(sessions, tokens):
            same(logits[0], truth[i])


@pytest.mark.parametrize("layers", [1, 2])
def test_layers_are_divided(device: None, tmp_path: Path, layers: int) -> None:
    path = tiny(tmp_path)
    compare(path, gpu_layers=layers)
    model = Model.load(path, device="cuda", gpu_layers=layers)
    assert (model.device, model.gpu_layers) == ("cuda", layers)
    assert ("of 2 layers" in model.runs_on) == (layers == 1)


@pytest.mark.parametrize("layers", [-1, 0, 3])
def test_too_many_layers(cuda: None, tmp_path: Path, layers: int) -> None:
    with pytest.raises(
        ValueError, match=rf"gpu_layers must be between 1 and .* 2 layers, not {layers}"
    ):
        Model.load(tiny(tmp_path), device="cuda", gpu_layers=layers)


def test_layers_need_a_device(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gpu_layers is for device='cuda'"):
        Model.load(tiny(tmp_path), gpu_layers=1)


def test_unknown_device(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device must be one of cpu, cuda, auto, not 'tpu'"):
        Model.load(tmp_path / "never read", device="tpu")


def test_no_device(cuda: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny(tmp_path)
    monkeypatch.setenv("PYTHIA_RT_EMULATOR_ABSENT", "there is no NVIDIA driver on this machine")
    with pytest.raises(RuntimeError, match="'cuda' cannot be used: there is no NVIDIA driver"):
        Model.load(path, device="cuda")
    assert Model.load(path, device="auto", gpu_layers=1).device == "cpu"
    assert Model.load(path).device == "cpu"


def test_no_room_for_the_model(cuda: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny(tmp_path, "f32", heads=4, head_dim=128, num_hidden_layers=4)
    whole = Model.load(path, device="cuda")
    assert whole.gpu_layers == 4
    del whole
    monkeypatch.setenv("PYTHIA_RT_EMULATOR_MEMORY", "30000000")
    with pytest.raises(MemoryError) as caught:
        Model.load(path, device="cuda")
    sentence = str(caught.value)
    assert sentence.startswith("the model needs ")
    assert "30 MB are free there: gpu_layers=" in sentence
    fitting = int(sentence.split("gpu_layers=")[1].split()[0])
    compare(path, gpu_layers=fitting)
    with pytest.raises(MemoryError):
        Model.load(path, device="cuda", gpu_layers=fitting + 1)
    with pytest.warns(UserWarning, match="the processor runs the model"):
        assert Model.load(path, device="auto").device == "cpu"
    monkeypatch.setenv("PYTHIA_RT_EMULATOR_MEMORY", "1000000")
    with pytest.raises(MemoryError, match="not even one layer would fit"):
        Model.load(path, device="cuda")


def test_heads_that_are_too_wide(cuda: None, tmp_path: Path) -> None:
    path = tiny(tmp_path, heads=1, head_dim=320)
    with pytest.raises(ValueError, match="heads have at most 256 dimensions, not 320"):
        Model.load(path, device="cuda")


def test_no_room_for_a_context(cuda: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny(tmp_path, max_position_embeddings=2048)
    model = Model.load(path, device="cuda")
    before = model.generate([1, 2, 3], max_new_tokens=5, temperature=0).tokens
    monkeypatch.setenv("PYTHIA_RT_EMULATOR_MEMORY", "1000")
    session = model.new_session(2048)
    with pytest.raises(MemoryError, match=r"no room for another .* MB are free: take fewer layers"):
        session.prefill(np.array(ids(20), np.int32))
    assert session.position == 0
    monkeypatch.delenv("PYTHIA_RT_EMULATOR_MEMORY")
    assert model.generate([1, 2, 3], max_new_tokens=5, temperature=0).tokens == before


def test_a_device_that_disappears(cuda: None, tmp_path: Path) -> None:
    path = tiny(tmp_path)
    model = Model.load(path, device="cuda")
    expected = model.generate([1, 2, 3], max_new_tokens=8, temperature=0).tokens
    for launches in (0, 7, 40):
        _emulated.fail_after(launches)
        with pytest.raises(RuntimeError, match="the CUDA device failed"):
            model.generate([1, 2, 3], max_new_tokens=8, temperature=0)
        # The processor is not affected.
        assert Model.load(path).generate([1, 2, 3], max_new_tokens=8, temperature=0).tokens == (
            expected
        )
    _emulated.fail_after(-1)
    assert model.generate([1, 2, 3], max_new_tokens=8, temperature=0).tokens == expected


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(command_line.main, [str(argument) for argument in arguments])


def test_command_line(cuda: None, tmp_path: Path, demo_file: Callable[[str], Path]) -> None:
    path = demo_file("q4")
    common = ("generate", "The kernel", "--model", path, "--max-new-tokens", "6", "--seed", "3")
    plain, on_device = run(*common), run(*common, "--device", "cuda", "--gpu-layers", "2")
    assert on_device.exit_code == 0, on_device.output
    assert on_device.stdout == plain.stdout
    assert "cuda emulator for 2 of 6 layers" in on_device.stderr
    refused = run(*common, "--device", "cuda", "--gpu-layers", "9")
    assert refused.exit_code == 1
    assert refused.stderr == (
        "Error: --gpu-layers must be between 1 and the model's 6 layers, not 9\n"
    )


def test_the_extension_is_the_emulated_one() -> None:
    assert isinstance(_emulated, ModuleType)
    assert _emulated.cuda_unavailable() == ""
    assert _emulated.cuda_device_name() == "emulator"
