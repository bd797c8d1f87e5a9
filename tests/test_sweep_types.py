"""Type checkers take what metrics take, and know what is read back."""

from __future__ import annotations

from pathlib import Path

from mypy import api

import pythia_rt.sweeps.metrics as metrics

SNIPPET = """
import os
from pathlib import Path
from pythia_rt.sweeps.metrics.divergence import Divergence
from pythia_rt.sweeps.metrics.given import Given
from pythia_rt.sweeps.metrics.ngram import Ngram

def good(path: os.PathLike[str], given: Given) -> Given:
    Divergence(text="A text.", to_step=3)
    Ngram(Path("a.txt"), given, order=1)
    return Divergence(path, 3).text

Divergence(3, 3)
Divergence("A text.")
Divergence("A text.", 3).text = Given("text", b"A text.")
"""
WRONG = """Argument 1 to "Divergence" has incompatible type "int"
Missing positional argument "to_step" in call to "Divergence"
Property "text" defined in "Divergence" is read-only"""


def test_types_of_metrics(tmp_path: Path) -> None:
    """Only the modules of metrics are followed: the rest of the package takes mypy a minute."""
    place = Path(metrics.__file__).parent
    snippet = tmp_path / "snippet.py"
    snippet.write_text(SNIPPET)
    files = [place / f"{name}.py" for name in ("base", "given", "divergence", "ngram")]
    found, errors, _ = api.run([
        "--strict", "--follow-imports=skip", "--ignore-missing-imports",
        "--allow-untyped-decorators", "--allow-subclassing-any", f"--cache-dir={tmp_path}",
        *map(str, files), str(snippet),
    ])  # fmt: skip
    told = [line for line in found.splitlines() if line.startswith(str(snippet))]
    assert not errors and len(told) == 3, found
    for line, sentence in zip(told, WRONG.splitlines(), strict=True):
        assert sentence in line
