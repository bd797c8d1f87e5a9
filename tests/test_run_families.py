"""Every point that transformers shows of a family is there, with its values."""

from __future__ import annotations

from pathlib import Path

import families
import numpy as np
import pytest
from family_rows import ROWS
from hooked import seen

from pythia_rt import Model
from pythia_rt.insides.lookup import Names

MOST = 1e-4  # largest difference, as a part of the largest magnitude
CASES = [(name, number) for name in ROWS for number in range(4 if name == "GPT-NeoX" else 1)]
LEAST = {"resid_pre", "resid_post", "z", "mlp_pre", "mlp_post", "attn_out", "mlp_out"}


@pytest.mark.parametrize(("name", "number"), CASES, ids=[f"{n}-{i}" for n, i in CASES])
def test_points_are_those_of_transformers(tmp_path: Path, name: str, number: int) -> None:
    theirs = families.make_model(name, number)
    folder = families.save(theirs, tmp_path / "tiny", number)
    tokens = families.tokens_of(name, number)[:70]
    model = Model.load(families.flat_file(folder, "f32"), threads=1)
    expected = seen(theirs, tokens, model.spec)
    logits = expected.pop("logits")
    names = Names(model.spec)
    has = {canonical[0]: place for place, canonical in names.all.items()}
    common = [point for point in expected if point in has]
    found = model.run(tokens, common)
    assert {point.rpartition(".")[2] for point in common} >= LEAST
    for point in common:
        values = found[point]
        ours = values.reshape(len(tokens), -1) if not point.endswith("pattern") else values
        assert ours.shape == expected[point].shape, point
        most = MOST * np.abs(expected[point]).max()
        assert np.abs(ours - expected[point]).max() <= most, point
    assert np.abs(found.logits - logits).max() <= MOST * np.abs(logits).max()
