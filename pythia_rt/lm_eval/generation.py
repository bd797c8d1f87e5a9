"""What a task asks of a text that is to be written, in our words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pythia_rt.sampling import Sampling

MAX_GEN_TOKS = 256  # the harness's own default
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_OURS = ("top_k", "top_p", "min_p", "typical_p", "repetition_penalty")
# Of transformers, with the only values that change nothing.
_WITHOUT_EFFECT: dict[str, tuple[object, ...]] = {
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "use_cache": (True, False),
    "early_stopping": (True, False),
}


class Plan(NamedTuple):
    """How to write a text, and where it ends."""

    sampling: Sampling
    until: list[str]


def plan(gen_kwargs: Mapping[str, Any], *, end: int, seed: int, max_gen_toks: int) -> Plan:
    """The plan of a task's `gen_kwargs`.

    `end` is the token that ends a text, `max_gen_toks` how many are written where nothing is said.
    Greedy unless do_sample or a temperature says otherwise, with nothing filtered that is not
    asked for. Raises ValueError for what is none of ours.
    """
    given = {name: value for name, value in gen_kwargs.items() if value is not None}
    until = given.pop("until", [])
    until = [until] if isinstance(until, str) else list(until)
    lengths = [given.pop(name) for name in _LENGTHS if name in given]
    temperature = given.pop("temperature", None)
    if not given.pop("do_sample", bool(temperature)):
        temperature = 0.0
    for name, value in given.items():
        if name not in _OURS and value not in _WITHOUT_EFFECT.get(name, ()):
            raise ValueError(
                f"the task asks for {name}={value!r}, which this model does not have: it takes "
                f"{', '.join(['until', 'do_sample', 'temperature', *_LENGTHS, *_OURS])}"
            )
    options: dict[str, Any] = {
        "temperature": 1.0 if temperature is None else temperature,
        "top_p": 1.0,
    }
    sampling = Sampling(
        max_new_tokens=int(lengths[0]) if lengths else max_gen_toks,
        stop=[text for text in until if text],
        stop_token_ids=end,
        seed=seed,
        **(options | {name: given[name] for name in _OURS if name in given}),
    )
    return Plan(sampling, until)
