"""Rotations: frequencies of every kind and spelling, and tables of angles, are transformers'."""

from __future__ import annotations

import copy
from decimal import Decimal, getcontext
from typing import Any

import numpy as np
import pytest
import torch
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding

from pythia_rt.convert import CheckpointError
from pythia_rt.convert.architectures.shared import rope
from pythia_rt.convert.architectures.shared.config import Config
from pythia_rt.convert.architectures.shared.rope import Rotation, frequencies_of, make_rotation
from pythia_rt.convert.architectures.shared.rope_config import KINDS, read_rope


def powers_of_torch(base: float, rotary_dim: int, pairs: int | None = None) -> NDArray[np.float32]:
    """Ours, but for the last bit, which would be more of one where frequencies are mixed.

    torch's depend on how many it computes at once.
    """
    found: NDArray[np.float32] = (
        base ** (torch.arange(0, rotary_dim, 2)[:pairs].float() / rotary_dim)
    ).numpy()
    return found


def read(config: dict[str, Any], head_dim: int = 64) -> Rotation:
    return make_rotation(read_rope(Config(config, {}), base=10000.0), head_dim)


def of_transformers(config: dict[str, Any], head_dim: int) -> tuple[Any, float]:
    """What transformers makes of a config.json of the Llama family; old spellings included."""
    theirs = LlamaConfig(
        head_dim=head_dim, num_attention_heads=1, hidden_size=head_dim, **copy.deepcopy(config)
    )
    kind = theirs.rope_parameters["rope_type"]
    if kind == "default":  # Llama's own rotates all of a head
        return GPTNeoXRotaryEmbedding.compute_default_rope_parameters(theirs)
    return ROPE_INIT_FUNCTIONS[kind](theirs)


@pytest.mark.parametrize("base", [10000.0, 10000.1, 500000.0, 1e6, 1.3e5, 2.0, 1.0, 1e29, 1e-3])
def test_frequencies_are_rounded_powers(base: float) -> None:
    getcontext().prec = 60
    for rotary_dim in (2, 4, 6, 12, 16, 20, 24, 32, 64, 80, 96, 128, 256):
        exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
        powers = [Decimal(base) ** Decimal(float(exponent)) for exponent in exponents]
        expected = np.float32(1) / np.array([np.float32(nearest(power)) for power in powers])
        np.testing.assert_array_equal(frequencies_of(base, rotary_dim), expected)
        of_torch = powers_of_torch(base, rotary_dim)
        np.testing.assert_allclose(1 / frequencies_of(base, rotary_dim), of_torch, rtol=2.0**-22)


def nearest(value: Decimal) -> float:
    """The float32 that is nearest."""
    guess = np.float32(float(value))
    around = [np.nextafter(guess, np.float32(0)), guess, np.nextafter(guess, np.float32(np.inf))]
    return min(map(float, around), key=lambda near: abs(Decimal(near) - value))


numbers = st.floats(1.0, 40.0)
parameters: dict[str, Any] = {
    "default": st.fixed_dictionaries({}),
    "linear": st.fixed_dictionaries({"factor": numbers}),
    "proportional": st.fixed_dictionaries({}, optional={"factor": numbers}),
    "llama3": st.fixed_dictionaries(
        {
            "factor": numbers,
            "low_freq_factor": st.sampled_from([0.5, 1.0, 2]),
            "high_freq_factor": st.sampled_from([4, 8.0]),
        },
        optional={"original_max_position_embeddings": st.sampled_from([64, 8192])},
    ),
    "yarn": st.fixed_dictionaries(
        {"factor": numbers},
        optional={
            "attention_factor": st.floats(0.5, 2),
            "beta_fast": st.sampled_from([16, 32, 40.0]),
            "beta_slow": st.sampled_from([1, 2.0]),
            "mscale": st.sampled_from([0.5, 1, 1.5]),
            "mscale_all_dim": st.sampled_from([0.7, 1.0]),
            "truncate": st.booleans(),
            "original_max_position_embeddings": st.sampled_from([128, 4096]),
        },
    ),
}


def test_every_kind_is_tried() -> None:
    assert set(parameters) == set(KINDS)
    assert set(ROPE_INIT_FUNCTIONS) - set(KINDS) == {"dynamic", "longrope"}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=examples(60))
@given(data=st.data())
def test_scaled_frequencies_are_those_of_transformers(kind: str, data: st.DataObject) -> None:
    scaling = data.draw(parameters[kind])
    values = {"rope_theta": data.draw(st.sampled_from([1e4, 5e5, 1e6, 70000.5]))}
    fraction = data.draw(st.sampled_from([None, 1.0, 0.5, 0.25]))
    if fraction is not None:
        values["partial_rotary_factor"] = fraction
    config: dict[str, Any] = {"max_position_embeddings": data.draw(st.sampled_from([512, 131072]))}
    match data.draw(st.sampled_from(["new", "old", "older", "mixed"])):
        case "new":
            config["rope_parameters"] = {"rope_type": kind} | scaling | values
        case "old":
            config |= {"rope_scaling": {"rope_type": kind} | scaling} | values
        case "older":
            config |= {"rope_scaling": {"type": kind} | scaling} | values
        case _:
            config |= {"rope_parameters": {"rope_type": kind} | scaling, "rope_scaling": None}
            config |= values
    head_dim = data.draw(st.sampled_from([16, 64, 80, 128]))
    expected, factor = of_transformers(config, head_dim)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rope, "_powers", powers_of_torch)
        found = read(config, head_dim)
    np.testing.assert_array_equal(found.frequencies, expected.numpy())
    assert found.factor == factor
    assert found.fields == {"rotary_dim": 2 * len(expected), "rope_factor": factor}
    assert found.tables["rope_frequencies"].shape == (1, len(expected))


def test_the_original_context_may_stand_beside_the_dictionary() -> None:
    scaling = {"rope_type": "yarn", "factor": 8.0}
    config = {"rope_scaling": scaling, "max_position_embeddings": 32768}
    beside = config | {"original_max_position_embeddings": 4096}
    inside = config | {"rope_scaling": scaling | {"original_max_position_embeddings": 4096}}
    expected, _ = of_transformers(beside, 64)
    for given_ in (beside, inside):
        np.testing.assert_allclose(read(given_).frequencies, expected.numpy(), rtol=3e-7)
    assert np.abs(read(config).frequencies - read(beside).frequencies).max() > 1e-4


@pytest.mark.parametrize(
    ("scaling", "says"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, "'dynamic'"),
        ({"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}, "'longrope'"),
        ({"rope_type": "axial"}, "'axial'"),
        ({"rope_type": "linear"}, "without factor"),
        ({"rope_type": "yarn", "factor": 2.0, "rope_theta": 1.0}, "no finite frequencies"),
        ({"rope_type": "yarn", "factor": 2.0, "attention_factor": 1e200}, "no finite frequencies"),
        ({"rope_type": "linear", "factor": 1e-60}, "no finite frequencies"),
        ({"rope_theta": 1e30}, "rope_theta of 1e\\+30"),
        ({"rope_theta": 1e-290}, "no finite frequencies"),
        ({"partial_rotary_factor": 0.05}, "rotary_dim of 3, an odd number"),
    ],
)
def test_what_is_no_table_of_frequencies_is_refused(scaling: dict[str, Any], says: str) -> None:
    config = {"rope_parameters": scaling, "max_position_embeddings": 4096}
    with pytest.raises(CheckpointError, match=says):
        read(config)


def test_a_head_may_rotate_not_at_all() -> None:
    found = read({"partial_rotary_factor": 0.01})
    assert found.fields == {"rotary_dim": 0, "rope_factor": 1.0}
    assert found.tables == {}
