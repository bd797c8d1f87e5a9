"""Type checkers take what metrics take, and know what is read back."""

from __future__ import annotations

from pathlib import Path

from mypy import api

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


# The modules of metrics are followed alone: the rest of the package takes mypy a minute.
SETTINGS = """
[mypy]
strict = true
follow_imports = skip
[mypy-pythia_rt.sweeps.metrics.*]
follow_imports = normal
disallow_untyped_decorators = false
disallow_subclassing_any = false
"""


def test_types_of_metrics(tmp_path: Path) -> None:
    snippet, settings = tmp_path / "snippet.py", tmp_path / "mypy.ini"
    snippet.write_text(SNIPPET)
    settings.write_text(SETTINGS)
    found, errors, _ = api.run([
        f"--config-file={settings}", f"--cache-dir={tmp_path}", str(snippet),
    ])  # fmt: skip
    told = [line for line in found.splitlines() if line.startswith(str(snippet))]
    assert not errors and len(told) == 3, found
    for line, sentence in zip(told, WRONG.splitlines(), strict=True):
        assert sentence in line
