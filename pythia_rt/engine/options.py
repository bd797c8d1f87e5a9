"""Options of the methods that write texts, as keyword arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pythia_rt.sampling import SamplingOptions

if TYPE_CHECKING:
    from pythia_rt.engine.drafts import Draft
    from pythia_rt.grammar import Constraint
    from pythia_rt.insides.edits import Edits
    from pythia_rt.processors import Processor


class TextOptions(SamplingOptions, total=False):
    """Of `Model.generate`: the fields of `Sampling`, and what else may be asked of a text.

    `top_logprobs`, `echo`, `draft`, `constraint`, `processors` and `edits` are those of `Request`.
    `grammar`, `json_schema` and `regex` make a constraint (`Constraint`).
    """

    top_logprobs: int
    echo: bool
    draft: Draft | str | None
    constraint: Constraint | None
    grammar: str | None
    json_schema: dict[str, Any] | str | None
    regex: str | None
    processors: Sequence[Processor]
    edits: Edits


class SamplesOptions(TextOptions, total=False):
    """Of `Model.samples`: besides, how many texts, and of how many they are the best."""

    n: int
    best_of: int | None


class SubmitOptions(SamplesOptions, total=False):
    """Of `Engine.submit`: all fields of `Sampling` and `Request`."""

    namespace: str
    key: str
    deadline: float | None
