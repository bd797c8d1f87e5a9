"""Sweeps of models of a hub: fetched once, verified, dropped, and gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from local_hub import LocalHub
from sweeps import TEXT, write_suite

import pythia_rt
import pythia_rt.sweeps

MODEL = "someone/tiny"


@pytest.fixture
def suite(tmp_path: Path, local_hub: LocalHub) -> Path:
    """Three steps in a folder, which the hub has too."""
    folder = write_suite(tmp_path / "suite", (0, 1, 8))
    for place in folder.iterdir():
        local_hub.add(MODEL, place.name, place)
    return folder


def sweep(model: Any, out: Path, **options: Any) -> pythia_rt.Sweep:
    return pythia_rt.sweep(
        model, metrics=pythia_rt.sweeps.Perplexity(TEXT), out=out, progress=False, **options
    )


def values(found: pythia_rt.Sweep) -> list[tuple[Any, ...]]:
    return [(row["step"], row["digest"], row["metric"], row["value"]) for row in found.rows]


@pytest.mark.parametrize("workers", [1, 2])
def test_steps_of_a_hub(suite: Path, local_hub: LocalHub, tmp_path: Path, workers: int) -> None:
    found = sweep(MODEL, tmp_path / "out", workers=workers)
    assert found.failures == [] and found.measured == 3
    assert {row["commit"] for row in found.rows} == {
        local_hub.commit(MODEL, f"step{step}") for step in (0, 1, 8)
    }
    assert values(found) == values(sweep(suite, tmp_path / "local"))
    # Each was fetched once, and nothing is left of it: neither here nor in the hub's cache.
    weights = [r for r in local_hub.requests if r.path.endswith(".safetensors") and r.sent]
    assert len(weights) == 3
    assert not list(tmp_path.glob("hub/**/*.safetensors"))
    assert not list((tmp_path / "out").rglob("*.safetensors"))
    # What is known is not fetched again; one question says which commits there are.
    before = len(local_hub.requests)
    again = sweep(MODEL, tmp_path / "out", workers=workers)
    assert (again.measured, again.skipped) == (0, 3)
    assert len(local_hub.requests) == before + 1


def test_a_corrupted_download_is_never_converted(
    suite: Path, local_hub: LocalHub, tmp_path: Path
) -> None:
    commit = local_hub.commit(MODEL, "step1")
    local_hub.flip(f"*{commit}/model.safetensors", 700)
    found = sweep(MODEL, tmp_path / "out")
    assert [row["step"] for row in found.rows if row["metric"] == "perplexity"] == [0, 8]
    [failure] = found.failures
    assert (failure["step"], failure["metric"]) == (1, None)
    local_hub.faults.clear()
    found = sweep(MODEL, tmp_path / "out")
    assert (found.measured, found.skipped, found.failures) == (1, 2, [])
    assert values(found) == values(sweep(suite, tmp_path / "local"))


def test_what_the_cache_has_is_taken_and_stays(
    suite: Path, local_hub: LocalHub, tmp_path: Path
) -> None:
    pythia_rt.convert.resolve(MODEL, step=8)
    before = local_hub.sent("*.safetensors")
    cached = set((tmp_path / "hub").rglob("*.safetensors"))
    assert cached and before
    found = sweep(MODEL, tmp_path / "out", steps=8)
    assert found.measured == 1 and local_hub.sent("*.safetensors") == before
    assert set((tmp_path / "hub").rglob("*.safetensors")) == cached
    offline = sweep(MODEL, tmp_path / "other", offline=True)
    assert [row["step"] for row in offline.rows if row["metric"] == "perplexity"] == [8]


def test_a_new_commit_is_another_checkpoint(
    suite: Path, local_hub: LocalHub, tmp_path: Path
) -> None:
    sweep(MODEL, tmp_path / "out")
    local_hub.add(MODEL, "step1", suite / "step0")
    found = sweep(MODEL, tmp_path / "out")
    assert (found.measured, found.skipped) == (1, 2)
    assert len({row["commit"] for row in found.rows if row["step"] == 1}) == 2


def test_models_and_steps_that_a_hub_lacks(
    suite: Path, local_hub: LocalHub, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="has no step 3: the nearest are 1 and 8"):
        sweep(MODEL, tmp_path / "out", steps=[3])
    with pytest.raises(OSError, match="someone/nothing"):
        sweep("someone/nothing", tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        sweep("no such folder", tmp_path / "out")
    assert not (tmp_path / "out").exists()
