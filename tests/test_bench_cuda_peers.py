"""Peers on a CUDA device that is not there: what they are told, and why they are skipped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from conftest import ROOT

from bench import compare, kinds
from bench.peers import cuda_peers, llama_peer, registry, torch_device
from bench.peers.ours import PythiaRt
from bench.peers.protocol import Room, Source
from bench.peers.torch_peer import _bytes
from pythia_rt import _core
from pythia_rt.convert import convert

DEMO = ROOT / "pythia_rt" / "demo"
ROOM = Room(40, 40, 2)
WORK = kinds.Work(prefill=12, decode=3, context=20, sequences=2, texts=2, text_length=9)
# transformers 5.24 renames an argument; the ranges that are allowed begin with the older name.
RENAMED = pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning")


def test_peers_depend_on_the_device() -> None:
    assert registry.chosen("bitsandbytes", "cuda") == [
        ("bitsandbytes", "int8"),
        ("bitsandbytes", "nf4"),
    ]
    assert registry.chosen("transformers", "cuda") == [
        ("transformers", "float16-eager"),
        ("transformers", "float16-sdpa"),
    ]
    with pytest.raises(ValueError, match="there is no peer 'openvino'; there are transformers:fl"):
        registry.chosen("openvino", "cuda")
    with pytest.raises(ValueError, match="there is no peer 'bitsandbytes'"):
        registry.chosen("bitsandbytes")


def source(folder: Path) -> Source:
    return Source(DEMO, folder, 1, ROOM, "cuda")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What from_pretrained is asked for; the model that it returns runs on the processor."""
    asked: dict[str, Any] = {}
    load = transformers.AutoModelForCausalLM.from_pretrained

    def note(checkpoint: Path, **options: Any) -> Any:
        asked.update(options)
        return load(checkpoint, dtype=torch.float32)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", note)
    monkeypatch.setattr(torch_device, "require", lambda: torch)
    yield asked


@RENAMED
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_transformers_is_told_type_attention_and_device(
    attention: str, asked: dict[str, Any], tmp_path: Path
) -> None:
    runner = cuda_peers.Transformers(source(tmp_path), f"float16-{attention}")
    assert asked == {
        "dtype": torch.float16,
        "attn_implementation": attention,
        "device_map": {"": "cuda:0"},
    }
    for kind in kinds.KINDS:
        rate = WORK.measurement(kind, runner, runner.vocab_size)
        assert rate is not None
        assert rate() > 0


@pytest.mark.parametrize(("form", "bits"), [("int8", 8), ("nf4", 4)])
def test_bitsandbytes_is_told_its_bits(
    form: str, bits: int, asked: dict[str, Any], tmp_path: Path
) -> None:
    cuda_peers.BitsAndBytes(source(tmp_path), form)
    config = asked.pop("quantization_config")
    assert isinstance(config, transformers.BitsAndBytesConfig)
    assert (config.load_in_8bit, config.load_in_4bit) == (bits == 8, bits == 4)
    if bits == 4:
        assert config.bnb_4bit_quant_type == "nf4"
        assert config.bnb_4bit_compute_dtype is torch.float16
    assert asked == {
        "dtype": torch.float16,
        "attn_implementation": "sdpa",
        "device_map": {"": "cuda:0"},
    }


@RENAMED
def test_every_pass_on_a_device_is_waited_for(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waits: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append("wait"))
    runner = cuda_peers.Transformers(source(tmp_path), "float16-sdpa")
    prompt = kinds.random_tokens(4, runner.vocab_size)
    runner.start(prompt)
    assert not waits
    monkeypatch.setattr(runner, "_device", torch.device("cuda"))
    monkeypatch.setattr(runner, "_tensor", lambda prompts: torch.from_numpy(prompt[None]).long())
    runner.start(prompt)
    runner.step()
    assert len(waits) == 2


def test_scales_of_4_bits_are_read_too() -> None:
    assert _bytes(torch.zeros(8, dtype=torch.float16)) == 16
    state = SimpleNamespace(absmax=torch.zeros(3))
    assert _bytes(SimpleNamespace(nbytes=32, quant_state=state)) == 32 + 12


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
@pytest.mark.parametrize("peer", ["transformers", "bitsandbytes"])
def test_a_torch_without_cuda_is_a_reason(
    peer: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kind = registry.CUDA_PEERS[peer]._replace(modules=())
    monkeypatch.setitem(registry.CUDA_PEERS, peer, kind)
    with pytest.raises(RuntimeError, match=r"^torch \S+ was built without CUDA$"):
        registry.load(peer, kind.formats[0], source(tmp_path))


class FakeLlama:
    """Of llama_cpp, what loading a model needs."""

    LLAMA_SPLIT_MODE_NONE = 0

    def __init__(self, info: bytes):
        self.loaded: Any = None
        self._info = info

    def llama_print_system_info(self) -> bytes:
        return self._info

    def llama_log_callback(self, callback: object) -> object:
        return callback

    def llama_model_default_params(self) -> SimpleNamespace:
        return SimpleNamespace(n_gpu_layers=-1, split_mode=1)

    def llama_model_load_from_file(self, path: bytes, parameters: Any) -> str:
        self.loaded = parameters
        return "model"

    def llama_vocab_n_tokens(self, vocabulary: object) -> int:
        return 10

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: None


@pytest.mark.parametrize(
    ("info", "device", "layers"),
    [
        (b"CUDA : ARCHS = 900 | CPU : AVX = 1 | ", "cuda", 0x7FFFFFFF),
        (b"CUDA : ARCHS = 900 | CPU : AVX = 1 | ", "cpu", 0),
        (b"CPU : AVX = 1 | ", "cpu", 0),
        (b"CPU : AVX = 1 | ", "cuda", None),
    ],
)
def test_llama_has_all_layers_on_one_device_or_none(
    info: bytes, device: str, layers: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = FakeLlama(info)
    monkeypatch.setitem(sys.modules, "llama_cpp", fake)
    converted: list[str] = []
    monkeypatch.setattr(
        llama_peer, "_convert", lambda checkpoint, folder, form: converted.append(form)
    )
    monkeypatch.setattr(llama_peer, "gguf_tensors", lambda path: [])
    there = Source(DEMO, tmp_path, 1, ROOM, device)
    if layers is None:
        with pytest.raises(RuntimeError, match=r"^llama-cpp-python was built without CUDA$"):
            llama_peer.LlamaCpp(there, "Q4_0")
        assert not converted
        return
    assert llama_peer.LlamaCpp(there, "Q4_0").vocab_size == 10
    split_mode = 0 if device == "cuda" else 1  # that of one device, or the default
    assert (fake.loaded.n_gpu_layers, fake.loaded.split_mode) == (layers, split_mode)


def test_pythia_rt_is_told_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = convert(DEMO, tmp_path / "demo.q4", format="q4")
    told: list[str] = []
    model = _core.Model

    def note(*arguments: Any, device: str, **options: Any) -> Any:
        told.append(device)
        return model(*arguments, **options)

    monkeypatch.setattr(_core, "Model", note)
    PythiaRt(path, 1, ROOM)
    (tmp_path / "pythia_rt-q4").hardlink_to(path)
    compare._ours(source(tmp_path), "q4", "f16")
    assert told == ["cpu", "cuda"]
