"""What is asked of an engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from pythia_rt.convert.errors import shown
from pythia_rt.engine.drafts import Draft, read_draft
from pythia_rt.options import flag, real, replaced, whole_number_from
from pythia_rt.processors import Processor
from pythia_rt.prompt import Prompt
from pythia_rt.sampling import Sampling

if TYPE_CHECKING:
    from pythia_rt.grammar import Constraint
    from pythia_rt.insides.edits import Edits

MOST_TEXTS = 1024  # of one request
_SECONDS = real(lambda seconds: seconds > 0, "a number of seconds above 0")


@dataclass(frozen=True, eq=False)
class Request:
    """A prompt, and how to continue it. Every field is checked: a bad one is a ValueError.

    `n` texts are written, each with a seed of its own: with `sampling.seed` the first has that one,
    and the next ones count up from it. Of `best_of` texts the n with the highest mean
    log-probability of their tokens are the result. `top_logprobs` so many likeliest tokens are
    told at each new token, and with `echo` the log-probabilities of the prompt's tokens.

    `draft` makes texts come faster (see `Draft`); `constraint` says which texts there may be, and
    `processors` are called before each token. `edits` change what is at points inside the model, in
    all its passes for these texts (`Model.run` says how; positions count from the prompt's first
    token): what is read with edits is not shared with others. `namespace` keeps what was read
    before apart: only requests of the same one share it. Requests of different `key`s take turns.
    `deadline`, in seconds from `Engine.submit` on, ends the request with DeadlineExceeded.
    """

    prompt: Prompt
    sampling: Sampling = field(default_factory=Sampling)
    n: int = 1
    best_of: int | None = None
    top_logprobs: int = 0
    echo: bool = False
    draft: Draft | str | None = None
    constraint: Constraint | None = None
    processors: tuple[Processor, ...] = ()
    namespace: str = ""
    key: str = ""
    deadline: float | None = None
    edits: Edits = ()

    def __post_init__(self) -> None:
        if self.sampling is None:
            object.__setattr__(self, "sampling", Sampling())
        if not isinstance(self.sampling, Sampling):
            kind = type(self.sampling).__name__
            raise ValueError(f"sampling must be a pythia_rt.Sampling, not {kind}")
        whole_number_from(1, MOST_TEXTS, "texts")("n", self.n)
        if self.best_of is not None:
            whole_number_from(self.n, MOST_TEXTS, "texts")("best_of", self.best_of)
        whole_number_from(0, 1 << 20, "tokens")("top_logprobs", self.top_logprobs)
        flag("echo", self.echo)
        self._check_constraint()
        object.__setattr__(self, "draft", read_draft(self.draft))
        given: Any = () if self.processors is None else self.processors
        given = tuple(given) if isinstance(given, Iterable) and not callable(given) else (given,)
        for processor in given:
            if not callable(processor):
                raise ValueError(f"processors must be callables, not {shown(processor)}")
        object.__setattr__(self, "processors", given)
        if not isinstance(self.edits, tuple) or self.edits:
            from pythia_rt.insides.edits import listed

            object.__setattr__(self, "edits", tuple(listed(self.edits)))
        for name in ("namespace", "key"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a str, not {shown(getattr(self, name))}")
        if self.deadline is not None:
            _SECONDS("deadline", self.deadline)

    def _check_constraint(self) -> None:
        if self.constraint is None:
            return
        from pythia_rt.grammar import Constraint

        if not isinstance(self.constraint, Constraint):
            raise ValueError(
                f"constraint must be a pythia_rt.Constraint, not {shown(self.constraint)}"
            )

    @property
    def n_texts(self) -> int:
        """How many are written."""
        return self.n if self.best_of is None else self.best_of


_OF_CONSTRAINT = ("grammar", "json_schema", "regex")
OF_REQUEST = frozenset(each.name for each in fields(Request)) - {"prompt", "sampling"}
OF_SAMPLES = OF_REQUEST - {"namespace", "key", "deadline"}
OF_TEXT = OF_SAMPLES - {"n", "best_of"}


def as_request(
    prompt: Prompt | Request,
    sampling: Sampling | None,
    options: Mapping[str, Any],
    names: frozenset[str] = OF_REQUEST,
) -> Request:
    """The request, given as one or in parts: `options` are fields of `Sampling` and those fields of
    `Request` that `names` names, or what a constraint is made of.

    Raises ValueError for a bad one.
    """
    besides = [*sorted(names), *_OF_CONSTRAINT]
    of_request = {name: value for name, value in options.items() if name in names}
    of_constraint = {n: v for n, v in options.items() if n in _OF_CONSTRAINT and v is not None}
    of_sampling = {name: value for name, value in options.items() if name not in besides}
    base = prompt if isinstance(prompt, Request) else None
    if base is not None and sampling is not None:
        raise ValueError("a Request has its own sampling: change it there")
    given = sampling if base is None else base.sampling
    chosen = replaced(Sampling, given, of_sampling, besides=besides)
    if of_constraint:
        if of_request.get("constraint") is not None:
            raise ValueError(f"give a constraint or {next(iter(of_constraint))}, not both")
        of_request["constraint"] = _new_constraint(of_constraint)
    if base is not None:
        return replace(base, sampling=chosen, **of_request)
    return Request(prompt, chosen, **of_request)  # type: ignore[arg-type]


def _new_constraint(options: dict[str, Any]) -> Constraint:
    from pythia_rt.grammar import Constraint  # needed by few

    return Constraint(**options)
