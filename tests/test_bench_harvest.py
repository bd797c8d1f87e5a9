"""The benchmark of harvesting runs; no figure decides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench import harvest
from pythia_rt import Model


def test_each_way_gives_a_rate(demo_file: Callable[[str], Path], tmp_path: Path) -> None:
    model = Model.load(demo_file("q4"), threads=2)
    windows = [np.arange(16, dtype=np.int32)] * 2
    rates = {name: measure() for name, measure in harvest.ways(model, windows, tmp_path).items()}
    assert len(rates) > 3 and all(rate > 0 for rate in rates.values())
    assert not list(tmp_path.iterdir())


def test_the_command(
    demo_file: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--repetitions", "1", "--windows", "1", "--context", "8"]
    monkeypatch.setattr("sys.argv", ["bench.harvest", str(demo_file("q4")), *options])
    harvest.main()
    assert capsys.readouterr().out.count("tokens/s   x ") == 5
