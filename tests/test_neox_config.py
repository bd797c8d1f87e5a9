"""config.json: three generations of spelling mean the same; contradictions do not pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from convert_sources import make_config
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPTNeoXConfig

from pythia_rt.convert import CheckpointError, architectures
from pythia_rt.convert.architectures.gpt_neox import FAMILY
from pythia_rt.convert.architectures.shared.config import GELUS, Config
from pythia_rt.convert.flatfile.spec import Spec

ROPE_KEYS = ("rotary_pct", "rotary_emb_base")


def read(config: dict[str, Any], vocab_size: int = 1000) -> Spec:
    return FAMILY.read_config(config, vocab_size=vocab_size, n_tokens=None)


def with_rope(**changes: Any) -> dict[str, Any]:
    """Return a config without the old spelling of the rotary embedding."""
    return {k: v for k, v in make_config(**changes).items() if k not in ROPE_KEYS or k in changes}


def base_of(config: dict[str, Any]) -> float:
    """Of the frequencies that the model gets: base^(-2 / rotary_dim) is the second one."""
    found = FAMILY.read(Config(config, FAMILY.defaults)).tables["rope_frequencies"][0]
    return float(found[1]) ** -len(found)


def refuse(config: dict[str, Any]) -> str:
    with pytest.raises(CheckpointError) as error:
        read(config)
    assert "config.json" in str(error.value)
    return str(error.value)


OLD = {"rotary_pct": 0.5, "rotary_emb_base": 20000}
MIDDLE = {"partial_rotary_factor": 0.5, "rope_theta": 20000.0}
NEW = {"rope_parameters": {"rope_type": "default", **MIDDLE}}


@pytest.mark.parametrize(
    "spelling",
    [
        OLD,
        MIDDLE,
        NEW,
        OLD | MIDDLE,
        OLD | NEW,
        OLD | MIDDLE | NEW,
        OLD | {"rope_scaling": None},
        OLD | {"rope_scaling": {"type": "default"}},
        OLD | {"rope_parameters": {"rope_type": "default"}},
        OLD | {"partial_rotary_factor": None, "rope_theta": None},
        {"rotary_pct": 0.5, "rope_parameters": {"rope_theta": 20000}},
    ],
)
def test_every_spelling_of_the_rotary_embedding(spelling: dict[str, Any]) -> None:
    spec = read(with_rope(**spelling))
    assert spec["rotary_dim"] == 12
    assert spec["rope_factor"] == 1
    assert base_of(with_rope(**spelling)) == pytest.approx(20000, rel=1e-6)


def test_without_any_spelling_the_defaults_hold() -> None:
    spec = read(with_rope())
    assert spec["rotary_dim"] == 6
    assert base_of(with_rope()) == pytest.approx(10000, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor is 0.5", "rotary_pct is 0.25"]),
        ({"rope_theta": 1e6}, ["rope_theta is 1000000.0", "rotary_emb_base is 10000"]),
        (
            {"rope_parameters": {"partial_rotary_factor": 1.0}},
            ["rope_parameters.partial_rotary_factor is 1.0", "rotary_pct is 0.25"],
        ),
        (
            {"rope_parameters": {"rope_theta": 1.0}, "rope_scaling": {"rope_theta": 2.0}},
            ["rope_parameters.rope_theta is 1.0", "rope_scaling.rope_theta is 2.0"],
        ),
    ],
)
def test_contradictions_name_both_keys(changes: dict[str, Any], named: list[str]) -> None:
    sentence = refuse(make_config(**changes))
    assert all(part in sentence for part in named)


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"type": "linear", "factor": 2.0}, "'linear'"),
        ({"rope_type": "dynamic", "factor": 2.0}, "'dynamic'"),
        ({"rope_type": "default", "type": "yarn"}, "'yarn'"),
        ({"rope_type": ["default"]}, "not a name"),
        ({"rope_type": "default", "factor": 2.0}, "'factor'"),
        ({"full_attention": {"rope_type": "default"}}, "'full_attention'"),
        ([1], "not a dictionary"),
        ({"rope_theta": "10000"}, "rope_theta"),
    ],
)
def test_unknown_rope_is_refused(key: str, value: Any, says: str) -> None:
    sentence = refuse(make_config(**{key: value}))
    assert says in sentence
    assert key in sentence


@pytest.mark.parametrize("name", GELUS)
def test_activations_mean_what_transformers_means(name: str) -> None:
    import torch
    from transformers.activations import ACT2FN

    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    approximate = {"gelu": "none", "gelu_tanh": "tanh"}[
        read(make_config(hidden_act=name))["activation"]
    ]
    expected = torch.nn.functional.gelu(x, approximate=approximate)
    assert torch.allclose(ACT2FN[name](x), expected, atol=1e-8)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_act": "relu"}, "'relu'"),
        ({"hidden_act": "quick_gelu"}, "'quick_gelu'"),
        ({"hidden_act": None}, "hidden_act"),
        ({"hidden_size": 100}, "divides hidden_size 100 into 3 heads"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": 72.0}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers"),
        ({"num_attention_heads": None}, "num_attention_heads"),
        ({"intermediate_size": 1 << 70}, "intermediate_size"),
        ({"intermediate_size": 1 << 30}, "mlp_size"),
        ({"max_position_embeddings": 0}, "max_position_embeddings"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps"),
        ({"layer_norm_eps": 0}, "norm_eps"),
        ({"use_parallel_residual": 1}, "use_parallel_residual"),
        ({"attention_bias": "no"}, "attention_bias"),
        ({"tie_word_embeddings": None}, "tie_word_embeddings"),
        ({"rotary_pct": 0}, "rotary_pct"),
        ({"rotary_pct": -0.5}, "rotary_pct"),
        ({"rotary_pct": 1.5}, "more than the whole head"),
        ({"rotary_pct": 0.2}, "rotary_dim"),  # 24 * 0.2 = 4.8: 4, even
        ({"rotary_pct": 0.13}, "rotary_dim"),  # 3, odd
        ({"rotary_pct": 0.01}, "rotary_dim"),  # 0
        ({"rotary_emb_base": float("inf")}, "rotary_emb_base"),
        ({"head_dim": 64}, "head_dim"),
        ({"bos_token_id": -1}, "bos_id"),
    ],
)
def test_bad_values_are_refused_by_name(changes: dict[str, Any], says: str) -> None:
    if changes == {"rotary_pct": 0.2}:
        assert read(make_config(**changes))["rotary_dim"] == 4
    else:
        assert says in refuse(make_config(**changes))


def test_defaults_are_those_of_transformers() -> None:
    theirs = GPTNeoXConfig()
    spec = read({"model_type": "gpt_neox"}, vocab_size=theirs.vocab_size)
    assert spec["n_layers"] == theirs.num_hidden_layers
    assert spec["n_heads"] == theirs.num_attention_heads
    assert spec["hidden_size"] == theirs.hidden_size
    assert spec["mlp_size"] == theirs.intermediate_size
    assert spec["max_positions"] == theirs.max_position_embeddings
    assert spec["norm_eps"] == theirs.layer_norm_eps
    assert spec["bos_id"] == theirs.bos_token_id
    assert spec["tied_head"] == theirs.tie_word_embeddings
    assert spec["qkv_bias"] == spec["attn_out_bias"] == theirs.attention_bias
    assert (spec["block"] == "parallel") == theirs.use_parallel_residual
    rope: Any = theirs.rope_parameters
    assert base_of({}) == pytest.approx(rope["rope_theta"], rel=1e-6)
    assert spec["rotary_dim"] == int(spec["head_dim"] * rope["partial_rotary_factor"])


@pytest.mark.parametrize("spelling", [OLD, OLD | MIDDLE, NEW])
def test_what_transformers_saves_is_read_alike(tmp_path: Path, spelling: dict[str, Any]) -> None:
    config = with_rope(**spelling)
    saved = GPTNeoXConfig(**{k: v for k, v in config.items() if k != "model_type"})
    saved.save_pretrained(tmp_path)
    assert read(json.loads((tmp_path / "config.json").read_text())) == read(config)


@pytest.mark.parametrize(
    ("ends", "bos", "expected"),
    [
        ([3], 1, (1, [3])),
        ([3, 4], 1, (1, [3, 4])),
        ([], 1, (1, [])),
        ([3, 4], None, (3, [3, 4])),
        ([1000, 3, -1], None, (3, [3])),  # those without a row cannot be written
    ],
)
def test_special_ids(ends: list[int], bos: Any, expected: tuple[int, list[int]]) -> None:
    config = make_config(bos_token_id=bos)
    spec = FAMILY.read_config(config, vocab_size=1000, n_tokens=None, eos_ids=ends)
    assert (spec["bos_id"], spec["eos_ids"]) == expected


def test_ids_without_a_row_are_no_tokens_of_the_model() -> None:
    assert FAMILY.read_config(make_config(), vocab_size=100, n_tokens=101)["n_tokens"] == 100


@pytest.mark.parametrize(
    "model_type",
    ["qwen4", "gpt_neox_japanese", "stablelm_alpha", "", "__init__", "../gpt_neox", None, 3, ["x"]],
)
def test_unknown_architectures_are_refused(model_type: Any) -> None:
    with pytest.raises(CheckpointError, match=r"known ones are .*gpt_neox.*: choose"):
        architectures.find(make_config(model_type=model_type))


def test_architectures_are_found_by_name() -> None:
    assert "gpt_neox" in architectures.names()
    assert architectures.find({"model_type": "gpt_neox"}) is FAMILY
    assert architectures.find({"architectures": ["GPTNeoXForCausalLM"]}) is FAMILY


def test_what_is_near_and_what_is_lacking_is_said() -> None:
    with pytest.raises(CheckpointError, match=r"'gptneox' \(did you mean gpt_neox or gpt_neo\?\)"):
        architectures.find({"model_type": "gptneox"})
    for name, what in architectures.LACKING.items():
        with pytest.raises(CheckpointError, match="does not have") as error:
            architectures.find({"model_type": name})
        assert what in str(error.value)


VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.lists(st.integers(-1, 3), max_size=2)
    | st.dictionaries(st.sampled_from(["rope_type", "type", "rope_theta", "x"]), st.integers())
)
KEYS = [*make_config(), "rope_scaling", "rope_parameters", "rope_theta", "head_dim"]


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
@settings(max_examples=examples(500), deadline=None)
def test_strange_configs_never_crash(changes: dict[str, Any]) -> None:
    try:
        read(make_config(**changes))
    except CheckpointError as error:
        assert str(error).isprintable()
