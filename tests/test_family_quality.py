"""Calibration and reports for a checkpoint of every family: both know each family's whole form."""

from __future__ import annotations

from pathlib import Path

import families
import pytest

from pythia_rt.convert import FlatFile, convert
from pythia_rt.convert.flatfile.layout import linears
from pythia_rt.evaluation import reporter
from pythia_rt.evaluation.reporter import stored_report
from pythia_rt.evaluation.result import Comparison

TEXT = (
    "The kernel reads what a driver asks for; 12 processes wait, and 3 of them are told (by name) "
    "that nothing came. Whoever wrote it knew better: a queue is a promise, not a place. "
)
# The last variant is the one that differs most from the family's usual form.
CASES = [(name, len(families.ROWS[name].variants) - 1) for name in families.ROWS]


def quality(folder: Path, target: Path, calibrate: str | None) -> Comparison:
    made = convert(
        folder, target, format="q4", calibrate=calibrate, report=reporter(TEXT), threads=1
    )
    file = FlatFile(made)
    stored = stored_report(file)
    assert stored is not None
    assert stored.comparison is not None
    assert set(stored.comparison.weight_errors or {}) == {m.name for m in linears(file.spec)}
    assert ("calibrated=" in file.metadata["recipe"]) is (calibrate is not None)
    return stored.comparison


@pytest.mark.parametrize(("name", "number"), CASES)
def test_calibrated_weights_are_nearer_on_their_text(
    name: str, number: int, tmp_path: Path
) -> None:
    folder = families.save(families.make_model(name, number), tmp_path / "tiny", number)
    families.add_tokenizer(folder)
    plain, calibrated = (
        quality(folder, tmp_path / ("plain" if text is None else "calibrated"), text)
        for text in (None, TEXT)
    )
    assert 0 < calibrated.divergence.value < plain.divergence.value
