"""Points by all their names; what is none, and what a model lacks, is said in one sentence."""

from __future__ import annotations

from typing import Any

import pytest
from models import make_model, make_spec

from pythia_rt.insides.lookup import Names
from pythia_rt.insides.names import BY_NAME, POINTS, SHAPES, Place, canonical, table, theirs

NEOX = Names(make_spec(n_layers=3))
SEQUENTIAL = Names(make_spec(block="sequential"))


@pytest.mark.parametrize(("name", "place"), [
    ("layers.2.resid_post", ("resid_post", 2)),
    ("layers.-1.z", ("z", 2)),
    (("resid_post", -3), ("resid_post", 0)),
    ("embed", ("embed", -1)),
    ("blocks.1.hook_resid_pre", ("resid_pre", 1)),
    ("blocks.1.hook_in", ("resid_pre", 1)),
    ("blocks.0.attn.hook_attn_scores", ("scores", 0)),
    ("blocks.0.attn.o.hook_in", ("z", 0)),
    ("blocks.2.mlp.hook_pre", ("mlp_pre", 2)),
    ("blocks.2.ln2.hook_scale", ("mlp_norm.scale", 2)),
    ("ln_final.hook_normalized", ("final_norm.normalized", -1)),
    ("unembed.hook_in", ("final_norm", -1)),
    ("k1", ("k", 1)),
    ("scale2ln1", ("attn_norm.scale", 2)),
    ("scale", ("final_norm.scale", -1)),
    (("attn", 1), ("pattern", 1)),
    (("pre", 1, "mlp"), ("mlp_pre", 1)),
    (("post", -1), ("mlp_post", 2)),
    (("normalized", 0, "ln2"), ("mlp_norm.normalized", 0)),
])  # fmt: skip
def test_a_point_has_many_names(name: Any, place: tuple[str, int]) -> None:
    assert NEOX.find(name) == place
    assert NEOX.find(canonical(Place(*place))) == place


@pytest.mark.parametrize(("name", "sentence"), [
    ("layers.1.resid_pots", "near ones are layers.1.resid_post"),
    ("blocks.2.hook_z", "near ones are layers.2.z"),
    (("resid_pots", 1), "near ones are layers.1.resid_post"),
    ("resid_post", "in every layer: name one, as in 'layers.0.resid_post'"),
    ("layers.3.z", "no layer 3 for 'layers.3.z': this model has the layers 0 to 2"),
    ("layers.-4.z", "no layer -4"),
    ("layers.1.resid_mid", "no point resid_mid: in its parallel layers attention and the MLP both"),
    ("blocks.1.hook_resid_mid", "no point resid_mid: in its parallel layers"),
    ("hook_pos_embed", "no table of positions"),
    ("layers.0.mlp_pre_linear", "its MLP is not gated"),
    ("blocks.0.hook_q_input", "a copy of resid_pre for each head"),
    ("unembed.hook_out", "the logits are Run.logits"),
    ([("z", True)], "not by ('z', True)"),
    (3, "capture must list names of points, not 3"),
    ([None], "not by None"),
    ("layers.*.nothing", "matches 'layers.*.nothing': the points are embed, resid_pre, "),
])  # fmt: skip
def test_what_is_no_point_of_the_model_is_said(name: Any, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        NEOX.select(name)
    message = str(caught.value)
    assert sentence in message
    assert "\n" not in message and len(message) < 500


def test_globs_and_predicates_choose_places_once_in_the_order_of_what_is_named() -> None:
    chosen = NEOX.select(["blocks.*.attn.hook_z", "layers.1.z", "embed", "layers.[02].q"])
    assert chosen == [("z", 0), ("z", 1), ("z", 2), ("embed", -1), ("q", 0), ("q", 2)]
    assert NEOX.select(lambda name: name.endswith("hook_resid_post")) == [
        ("resid_post", layer) for layer in range(3)
    ]
    assert NEOX.select(lambda name: name == "layers.1.k") == [("k", 1)]
    late = NEOX.select("*.z", lambda place: place.layer > 0)
    assert late == [("z", 1), ("z", 2)]


def test_other_models_have_other_points() -> None:
    assert SEQUENTIAL.find("blocks.1.hook_resid_mid") == ("resid_mid", 1)
    output = Names(make_spec(block="output"))
    with pytest.raises(ValueError, match="norm what attention has computed"):
        output.find("layers.0.attn_norm")


@pytest.mark.parametrize("block", ["sequential", "parallel", "parallel_shared", "post", "output"])
def test_the_table_has_what_the_runtime_has(block: str) -> None:
    """Every place that a spec implies and that is not computed of others is one of the core's."""
    spec = make_spec(block=block, qk_norm="none" if block != "sequential" else "head")
    ours = {p.name for p in POINTS if p.why_not(spec) is None and not p.derived}
    assert ours == {name for name, _, _ in make_model(spec).points}
    for place in Names(spec).all:
        assert BY_NAME[place.point].in_layers == (place.layer >= 0)


def test_no_name_means_two_points() -> None:
    names = [name for point in POINTS for name in (point.name, *theirs(point, 0))]
    assert len(set(names)) == len(names)
    for place, of_place in NEOX.all.items():
        assert {NEOX.find(name) for name in of_place} == {place}


def test_the_table_lists_every_point_once() -> None:
    lines = table().splitlines()
    assert len(lines) == 2 + len(POINTS)
    assert all(any(shape in line for shape in SHAPES.values()) for line in lines[2:])
    assert "| `layers.N.z` | [p, heads, head_dim] |" in table()
