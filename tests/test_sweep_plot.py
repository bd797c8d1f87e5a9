"""The picture of a sweep: what is drawn for which numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pythia_rt import Sweep
from pythia_rt.sweeps import plot

pytest.importorskip("matplotlib", reason="matplotlib cannot be installed here")


def row(model: str, step: int | None, value: float | None, **changes: Any) -> dict[str, Any]:
    return {
        "model": model, "step": step, "commit": "", "digest": "", "format": "q8",
        "metric": "perplexity", "value": value, "stderr": 0.5, "n": 10,
        "asked": "perplexity:text=a.txt", "arrays": None,
        **changes,
    }  # fmt: skip


def sweep_of(rows: list[dict[str, Any]], folder: Path = Path()) -> Sweep:
    return Sweep(folder, rows, [], len(rows), 0)


def test_seeds_are_a_median_with_quartiles() -> None:
    values = [3.0, 5.0, 6.0, 9.0, 30.0]
    names = ["pythia-14m", *(f"pythia-14m-seed{i}" for i in range(1, 5))]
    rows = [row(name, step, v + step) for step in (0, 8) for name, v in zip(names, values)]  # noqa: B905
    steps, low, middle, high = plot._ribbon(rows)
    assert {plot.family(name) for name in names} == {"pythia-14m"}
    assert plot.family("pythia-160m-data-seed2") == "pythia-160m"
    assert steps.tolist() == [0, 8]
    assert (low.tolist(), middle.tolist(), high.tolist()) == ([5, 13], [6, 14], [9, 17])
    _, low, middle, high = plot._ribbon([row("a", 0, 4.0), row("a", 1, 5.0, stderr=None)])
    assert (low.tolist(), middle.tolist(), high.tolist()) == ([3.5, 5], [4, 5], [4.5, 5])


def test_the_picture_has_a_panel_for_each_metric_and_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    for seed in (1, 2, 3):
        for step in (0, 1, 512, 143000):
            name = f"heads-{seed}-{step}.npz"
            heads = np.full((2, 3), step / 1e6 + seed / 10)
            np.savez(tmp_path / name, induction=heads, scores=np.ones(5))
            rows.append(row(f"m-seed{seed}", step, 9.0 + seed, arrays=name))
            rows.append(row(f"m-seed{seed}", step, 0.1 * seed, metric="accuracy"))
    rows += [row("other", 512, None), row("other", None, 3.0), row("other", 1, 20.0, format="f32")]
    monkeypatch.setattr(plot, "is_wrong", lambda model, step: (model, step) == ("other", 1))
    figure = plot._draw(sweep_of(rows, tmp_path))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["perplexity", "accuracy", "induction, m: largest of a layer's heads"]
    first, second, third = figure.axes[:3]
    lines = {str(line.get_label()): line for line in first.get_lines()}
    assert list(lines) == ["m (3 seeds), q8", "other, f32", "known to be wrong"]
    assert list(lines["m (3 seeds), q8"].get_xdata()) == [0, 1, 512, 143000]
    assert list(lines["m (3 seeds), q8"].get_ydata()) == [11] * 4
    assert list(lines["known to be wrong"].get_xydata()[0]) == [1, 20]
    assert first.get_xscale() == "symlog" and first.get_xlim()[0] < 0  # step 0 is there
    assert first.get_yscale() == "log" and second.get_yscale() == "linear"
    shown = third.get_images()[0].get_array()
    assert shown is not None and shown.shape == (2, 4)
    assert shown[0].tolist() == pytest.approx([0.2, 0.200001, 0.200512, 0.343])
    plot.write_plot(sweep_of(rows, tmp_path), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the sweep has no numbers at steps"):
        plot.write_plot(sweep_of([row("a", None, 3.0)]), tmp_path / "p.png")
    with pytest.raises(ValueError, match=r"choose one that ends in \.png"):
        plot.write_plot(sweep_of([row("a", 1, 3.0)]), tmp_path / "p.txt")
