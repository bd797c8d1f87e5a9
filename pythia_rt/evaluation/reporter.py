"""What `convert` stores in a file: how good it is, measured on a text against its own source."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pythia_rt.convert.errors import FlatFileError
from pythia_rt.convert.exact import open_exactly
from pythia_rt.convert.flatfile import FlatFile
from pythia_rt.convert.merging import Merge
from pythia_rt.evaluation.evaluator import evaluate
from pythia_rt.evaluation.result import Evaluation
from pythia_rt.evaluation.text import read_text
from pythia_rt.model import Model

SAMPLE = Path(__file__).parent / "sample.txt"  # the project's own words, for want of others
_DIGITS = 6  # significant ones of the numbers in a file


def reporter(
    text: str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    progress: bool = False,
) -> Callable[..., dict[str, Any]]:
    """The function that `convert(..., report=...)` wants.

    It measures as `evaluate` does by default, on `text`: a str, a path object of a UTF-8 file, or
    by default a short text of this package. Raises OSError or ValueError for a file that cannot be
    read or is no text; the function raises what `evaluate` does.
    """
    # Read before minutes of conversion, not after.
    path = Path(SAMPLE if text is None else text).expanduser()
    chosen = text if isinstance(text, str) else read_text(path, can_cut=False)

    def report(
        file: FlatFile,
        folder: Path,
        base: Path | None,
        activation: str | None,
        merges: Sequence[Merge] = (),
    ) -> dict[str, Any]:
        source = open_exactly(
            folder,
            base=base,
            activation=activation,
            threads=threads,
            progress=progress,
            merges=merges,
        )
        result = evaluate(
            Model(file, threads=threads),
            chosen,
            reference=Model(source, threads=threads, kv_format="f32"),
            progress=progress,
        )
        rounded: dict[str, Any] = _rounded(result.to_dict())
        return rounded

    return report


def stored_report(file: FlatFile) -> Evaluation | None:
    """The report in `file`, if it has one; raises FlatFileError when it is damaged."""
    if file.report is None:
        return None
    try:
        report = Evaluation.from_dict(file.report)
        if report.model.data_sha256 != file.metadata["data_sha256"]:
            raise ValueError("it is about another file")
        return report
    except ValueError as reason:
        raise FlatFileError(
            f"{file.path} has a report that is invalid ({reason}): convert its source again"
        ) from None


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
