"""Model.weight gives the checkpoint's weights: biases exactly, quantised matrices nearly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import pythia_rt
from pythia_rt import MissingBasis, Model, _core
from pythia_rt.convert import FlatFile, convert
from pythia_rt.convert.flatfile.layout import Stored
from pythia_rt.convert.plan import Piece, source_of
from pythia_rt.convert.quantise.weights import WeightReader
from pythia_rt.insides.basis import Basis
from pythia_rt.insides.weights import WEIGHTS, Weights

Floats = NDArray[np.float32]
# What a layer's modules are called by the families' classes, by our names.
APART = {"q": "q_proj", "k": "k_proj", "v": "v_proj"}
LLAMA = {
    "layers": "model.layers", "embed": "model.embed_tokens", "final_norm": "model.norm",
    **{part: f"self_attn.{module}" for part, module in APART.items()}, "o": "self_attn.o_proj",
    "mlp_gate": "mlp.gate_proj", "mlp_up": "mlp.up_proj", "mlp_down": "mlp.down_proj",
    "attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm",
    "q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm",
}  # fmt: skip
GPT2 = {
    "layers": "transformer.h", "embed": "transformer.wte", "embed_positions": "transformer.wpe",
    "final_norm": "transformer.ln_f", "attn_norm": "ln_1", "mlp_norm": "ln_2",
    "qkv": "attn.c_attn", "o": "attn.c_proj", "mlp_up": "mlp.c_fc", "mlp_down": "mlp.c_proj",
}  # fmt: skip
MEGATRON = {
    "layers": "transformer.h", "embed": "transformer.word_embeddings",
    "embed_norm": "transformer.word_embeddings_layernorm", "final_norm": "transformer.ln_f",
    "attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm",
    "qkv": "self_attention.query_key_value", "o": "self_attention.dense",
    "mlp_up": "mlp.dense_h_to_4h", "mlp_down": "mlp.dense_4h_to_h",
}  # fmt: skip
OPT = {
    "layers": "model.decoder.layers", "embed": "model.decoder.embed_tokens",
    "embed_positions": "model.decoder.embed_positions",
    "final_norm": "model.decoder.final_layer_norm",
    **{part: f"self_attn.{module}" for part, module in APART.items()}, "o": "self_attn.out_proj",
    "attn_norm": "self_attn_layer_norm", "mlp_norm": "final_layer_norm",
    "mlp_up": "fc1", "mlp_down": "fc2",
}  # fmt: skip
OLMO2 = {"attn_norm": "post_attention_layernorm", "mlp_norm": "post_feedforward_layernorm"}
PHI = {"o": "self_attn.dense", "mlp_up": "mlp.fc1", "mlp_down": "mlp.fc2"}
MODULES: dict[str, dict[str, str]] = {
    "gpt_neox": MEGATRON | {
        "layers": "gpt_neox.layers", "embed": "gpt_neox.embed_in",
        "final_norm": "gpt_neox.final_layer_norm", "qkv": "attention.query_key_value",
        "o": "attention.dense",
    },
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "stablelm", "olmo"), LLAMA),
    "olmo2": LLAMA | OLMO2,
    "phi": LLAMA | PHI | {"final_norm": "model.final_layernorm"},
    "gpt2": GPT2,
    "gptj": GPT2 | {part: f"attn.{module}" for part, module in APART.items()}
    | {"o": "attn.out_proj", "mlp_up": "mlp.fc_in", "mlp_down": "mlp.fc_out"},
    "gpt_neo": GPT2 | {part: f"attn.attention.{module}" for part, module in APART.items()}
    | {"o": "attn.attention.out_proj"},
    "opt": OPT,
    "bloom": MEGATRON,
    "falcon": MEGATRON,
}  # fmt: skip
# One of each; OPT-350m's embedding is a product, which the checkpoint does not have.
CASES = [
    *((name, 0) for name in families.ROWS if name != "OPT-350m"),
    ("GPT-NeoX", 2), ("GPT-NeoX", 3), ("LLaMA", 2), ("Falcon-7B", 3), ("GPT-J", 3), ("OPT-350m", 1),
]  # fmt: skip


def theirs(model: Any, name: str) -> Floats | None:
    """The tensor of transformers that our `name` is, in our shape; None where there is none."""
    state, config = model.state_dict(), model.config
    modules = {"head": "lm_head"} | MODULES[config.model_type]
    role, _, part = name.rpartition(".")
    layer = ""
    if role.startswith("layers."):
        _, number, role = role.split(".")
        layer = f"{modules['layers']}.{number}."
    fused = role in ("q", "k", "v") and role not in modules
    module = layer + modules["qkv" if fused else role]
    if config.model_type == "falcon" and f"{module}.{part}" not in state:
        module = layer + {"attn_norm": "ln_attn", "mlp_norm": "ln_mlp"}.get(role, role)
    if f"{module}.{part}" not in state:
        return None
    values: Floats = state[f"{module}.{part}"].numpy()
    is_conv = type(model.get_submodule(module)).__name__ == "Conv1D"
    if is_conv and part == "weight":
        values = values.T
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if config.model_type == "falcon":
        kv_heads = config.num_kv_heads if config.new_decoder_architecture else kv_heads
        kv_heads = 1 if config.multi_query and not config.new_decoder_architecture else kv_heads
    if fused:
        dim = config.hidden_size // heads
        if config.model_type == "gpt2":
            groups = values.reshape(3, heads, dim, *values.shape[1:])
            return groups["qkv".index(role)]
        group = heads // kv_heads
        groups = values.reshape(kv_heads, group + 2, dim, *values.shape[1:])
        parts = {"q": slice(group), "k": slice(group, group + 1), "v": slice(group + 1, None)}
        return groups[:, parts[role]].reshape(-1, dim, *values.shape[1:])
    if role in ("q", "k", "v"):
        n = heads if role == "q" else kv_heads
        return values.reshape(n, -1, *values.shape[1:])
    if role == "o" and part == "weight":
        return values.reshape(len(values), heads, -1)
    if role == "embed_positions" and config.model_type == "opt":
        return values[2:]
    if role in ("q_norm", "k_norm"):
        n = heads if role == "q_norm" else kv_heads
        return values if config.model_type == "olmo2" else np.tile(values, n)
    return values


@pytest.mark.parametrize(("name", "number"), CASES)
def test_weights_are_those_of_transformers(tmp_path: Path, name: str, number: int) -> None:
    made = families.make_model(name, number)
    folder = families.save(made, tmp_path / "source", number)
    files = {form: convert(folder, tmp_path / form, format=form) for form in ("f32", "q8", "q4")}
    exact, *quantised = (Weights(Model.load(path).file) for path in files.values())
    parameters = 0
    for weight in exact.names():
        expected, found = theirs(made, weight), exact.get(weight)
        if expected is None:  # a norm without parameters
            assert name == "OLMo" and np.unique(found) in (0, 1), weight
            continue
        np.testing.assert_array_equal(found, expected, weight)
        parameters += found.size
        for most, other in zip((0.01, 0.11), quantised, strict=True):
            difference = np.square(other.get(weight) - expected).mean()
            # Constants that moved into a bias come back with the errors of the matrix.
            size = 0.5 if weight.endswith(".bias") else np.square(expected).mean() ** 0.5
            assert difference <= (most * size) ** 2, weight
    counted = {id(values): values.numel() for values in made.parameters()}
    shared = made.config.tie_word_embeddings * made.get_input_embeddings().weight.numel()
    beyond = {"opt": 2 * made.config.hidden_size}.get(made.config.model_type, 0)
    copies = sum(exact.get(w).size - np.size(x) for w in exact.names()
                 if "k_norm" in w or "q_norm" in w for x in [state_of(made, w)])  # fmt: skip
    assert parameters == sum(counted.values()) + shared - beyond + copies


@pytest.mark.parametrize(("name", "number"), families.CASES)
def test_biases_are_exactly_the_checkpoints(tmp_path: Path, name: str, number: int) -> None:
    """Of quantised files too, whatever balancing has moved into those that the runtime adds."""
    made = families.make_model(name, number)
    folder = families.save(made, tmp_path / "source", number)
    for form in ("q8", "q4"):
        weights = Weights(Model.load(convert(folder, tmp_path / form, format=form)).file)
        for weight in weights.names():
            expected = theirs(made, weight) if weight.endswith(".bias") else None
            if expected is not None:
                assert bits(weights.get(weight)) == bits(expected), weight


def bits(values: Floats) -> tuple[tuple[int, ...], bytes]:
    return values.shape, values.tobytes()


@pytest.mark.parametrize(("dtype", "size"), [("float16", 2), ("bfloat16", 2), ("float32", 4)])
def test_biases_take_no_more_room_than_in_the_checkpoint(
    tmp_path: Path, dtype: str, size: int
) -> None:
    made = families.make_model("GPT-NeoX", 0)
    for path, values in made.named_parameters():
        if path.endswith("bias"):
            values.data[0] = 2**-30  # less than any of F16
    made.to(getattr(torch, dtype))
    folder = families.save(made, tmp_path / "source", 0)
    model = Model.load(convert(folder, tmp_path / "q4", format="q4"))
    made = made.float()
    for role in ("qkv", "attn_out", "mlp_up", "attn_norm", "mlp_norm", "final_norm"):
        name = f"basis.{role}.bias"
        assert model.file.entries[name].nbytes <= size * model.file.basis[name].size
    for name in Weights(model.file).names():
        if name.endswith(".bias"):
            expected = theirs(made, name)
            assert expected is not None
            assert bits(model.weight(name)) == bits(expected), name


def test_what_takes_balancing_back_is_a_hundredth_of_a_file(tmp_path: Path) -> None:
    """Of the demo model, which is narrow and has few tokens; Pythia's models are larger."""
    path = convert(Path(pythia_rt.__file__).parent / "demo", tmp_path / "q4", format="q4")
    entries = FlatFile(path).entries
    size = sum(entry.nbytes for name, entry in entries.items() if name.startswith("basis."))
    assert 0 < size < 0.01 * path.stat().st_size


@torch.no_grad()
def test_where_balancing_moves_nothing_no_bias_is_kept(tmp_path: Path) -> None:
    """As of a first step, whose biases are all zeros; and a zero keeps its sign."""
    made = families.make_model("GPT-NeoX", 0)
    for name, values in made.named_parameters():
        if name.endswith("bias"):
            values.zero_()
    folder = families.save(made, tmp_path / "zeros", 0)
    file = Model.load(convert(folder, tmp_path / "zeros q8", format="q8")).file
    assert {name for name in file.basis if "bias" in name} == {
        f"basis.{norm}.bias" for norm in ("attn_norm", "mlp_norm", "final_norm")
    }
    made.gpt_neox.layers[1].attention.dense.bias[3] = -0.0
    folder = families.save(made, tmp_path / "minus", 0)
    model = Model.load(convert(folder, tmp_path / "minus q8", format="q8"))
    assert np.flatnonzero(np.signbit(model.weight("layers.1.o.bias"))).tolist() == [3]


def test_files_that_keep_no_biases(
    neox: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they were written once: all else is the same, and biases come back by their weights."""
    new = neox("q8")
    kept = {name: data.tobytes() for name, data in new.file.tensors.items()}
    biases = {f"layers.1.{role}.bias": new.weight(f"layers.1.{role}.bias") for role in "qkvo"}
    made_by = "pythia_rt.convert.quantise.basis"
    monkeypatch.setattr(f"{made_by}.SourceBasis._has_other_bias", lambda self, matrix: False)
    monkeypatch.setattr(
        f"{made_by}.store", lambda values: (Stored("F32", values.shape), values.tobytes())
    )
    old = neox("q8")
    assert {old.file.entries[name].dtype for name in old.file.basis} == {"F32"}
    assert new.file.basis.keys() - old.file.basis.keys() == {
        f"basis.{role}.bias" for role in ("qkv", "attn_out", "mlp_up")
    }
    assert {name: data.tobytes() for name, data in old.file.tensors.items()} == kept
    for name, exact in biases.items():
        error = np.abs(old.weight(name) - exact).max() / np.abs(exact).max()
        assert 0 < error < 0.05, name


def test_vectors_of_the_source_are_read_once(
    neox: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Biases to be compared and to be kept, norms to be kept."""
    read: list[str] = []

    class Counted(WeightReader):
        def vector(self, pieces: Sequence[Piece], multiple: int) -> Floats:
            read.append(source_of(pieces))
            return super().vector(pieces, multiple)

    monkeypatch.setattr("pythia_rt.convert.quantise.basis.WeightReader", Counted)
    kept = neox("q8").file.basis
    assert {"basis.qkv.bias", "basis.attn_out.bias", "basis.mlp_up.bias"} < kept.keys()
    of_layers = [name for name in read if name.startswith("gpt_neox.layers.1.")]
    assert sorted(of_layers) == sorted(set(of_layers))
    assert sum(name.endswith("bias") for name in of_layers) >= 5


def state_of(model: Any, name: str) -> Any:
    modules = MODULES[model.config.model_type]
    _, number, role, part = name.split(".")
    return model.state_dict()[f"{modules['layers']}.{number}.{modules[role]}.{part}"].numpy()


@pytest.fixture(scope="module")
def neox(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    folder = tmp_path_factory.mktemp("weights")
    source = families.save(families.make_model("GPT-NeoX", 0), folder / "source", 0)
    return lambda form: Model.load(convert(source, folder / form, format=form, force=True))


def test_only_what_is_asked_for_is_made(
    neox: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No matrix for a bias that does not take it, and no bias for a matrix."""
    model = neox("q8")
    unpacked: list[tuple[int, int]] = []
    unpack = _core.unpack

    def counted(form: str, parts: Any, rows: int, columns: int) -> Any:
        unpacked.append((rows, columns))
        return unpack(form, parts, rows, columns)

    monkeypatch.setattr("pythia_rt.insides.weights._core.unpack", counted)
    for role in ("q.bias", "o.bias", "mlp_up.bias", "mlp_down.bias", "attn_norm.weight"):
        model.weight(f"layers.1.{role}")
    assert not unpacked
    read: list[str] = []
    vector = Basis.vector

    def noted(self: Basis, name: str, size: int) -> Floats:
        read.append(name)
        return vector(self, name, size)

    monkeypatch.setattr(Basis, "vector", noted)
    for role in ("q", "o", "mlp_up", "mlp_down"):
        model.weight(f"layers.1.{role}")
    assert {name.split(".")[2] for name in read} == {"attn_norm", "mlp_norm"}
    assert unpacked == [(180, 60), (60, 60), (100, 60), (60, 100)]


def test_names_of_transformerlens(neox: Callable[[str], Model]) -> None:
    model = neox("q8")
    q = model.weight("layers.1.q.weight")
    assert q.shape == (5, 12, 60)
    np.testing.assert_array_equal(model.weight("layers.-1.q"), q)
    np.testing.assert_array_equal(model.weight("blocks.1.attn.W_Q"), q.transpose(0, 2, 1))
    o = model.weight("layers.0.o")
    np.testing.assert_array_equal(model.weight("blocks.0.attn.W_O"), o.transpose(1, 2, 0))
    np.testing.assert_array_equal(
        model.weight("blocks.0.mlp.W_out"), model.weight("layers.0.mlp_down").T
    )
    np.testing.assert_array_equal(model.weight("W_U"), model.weight("head").T)
    np.testing.assert_array_equal(model.weight("unembed.W_U"), model.weight("head").T)
    np.testing.assert_array_equal(model.weight("ln_final.b"), model.weight("final_norm.bias"))
    shapes = {line.name: line.shape for line in WEIGHTS}
    sizes = {"vocab": 96, "hidden": 60, "heads": 5, "kv_heads": 5, "head_dim": 12, "mlp": 100}
    for name in Weights(model.file).names():
        shape = shapes[name.replace(".0.", ".N.").replace(".1.", ".N.")].strip("[]").split(", ")
        assert model.weight(name).shape == tuple(sizes[part] for part in shape), name


def test_what_is_no_weight(neox: Callable[[str], Model]) -> None:
    model = neox("f32")
    for name, says in (
        ("blocks.0.attn.W_q", r"near ones are .*blocks\.0\.attn\.W_Q"),
        ("layers.7.q", "no layer 7 .* the layers 0 to 1"),
        ("layers.N.q", "no weight"),
        ("layers.0.mlp_gate", "this model has no 'layers.0.mlp_gate': it has embed.weight"),
        ("embed_positions", "this model has no 'embed_positions'"),
        ("", "no weight ''"),
        ("zzz", "there are embed.weight"),
        (3, "by a str, not by 3"),
    ):
        with pytest.raises(ValueError, match=says):
            model.weight(name)  # type: ignore[arg-type]


def test_files_without_their_basis(
    neox: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pythia_rt.convert.quantise.basis.SourceBasis.stored", lambda self: {})
    model = neox("q4")
    assert model.weight("embed").shape == (96, 60)
    for name in ("layers.0.q", "layers.0.o", "layers.0.attn_norm.weight", "head"):
        with pytest.raises(MissingBasis, match="convert its source again"):
            model.weight(name)


@torch.no_grad()
def test_a_gain_of_0_leaves_a_column_of_zeros(tmp_path: Path) -> None:
    """The file has nothing of it, and what nothing reads is no noise either."""
    made = families.make_model("GPT-NeoX", 0)
    for layer in made.gpt_neox.layers:
        layer.input_layernorm.weight[3] = 0
        layer.attention.query_key_value.weight[:, 5] = 0
    folder = families.save(made, tmp_path / "source", 0)
    model = Model.load(convert(folder, tmp_path / "q4", format="q4", attention="q4"))
    for part in "qkv":
        values = model.weight(f"layers.1.{part}")
        assert not values[..., [3, 5]].any()
        assert values[..., [2, 4, 6]].all()
    norm = made.gpt_neox.layers[1].input_layernorm
    np.testing.assert_array_equal(model.weight("layers.1.attn_norm.weight"), norm.weight.numpy())
    np.testing.assert_array_equal(model.weight("layers.1.attn_norm.bias"), norm.bias.numpy())
