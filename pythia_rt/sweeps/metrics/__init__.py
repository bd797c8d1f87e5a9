"""What a sweep can measure: a module for each metric, and their list. Users import the classes
from `pythia_rt.sweeps`."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pythia_rt.convert.errors import shown
from pythia_rt.sweeps.metrics.base import Metric
from pythia_rt.sweeps.metrics.continuations import Continuations
from pythia_rt.sweeps.metrics.divergence import Divergence
from pythia_rt.sweeps.metrics.function import Function, see_modules_here
from pythia_rt.sweeps.metrics.given import GivenField
from pythia_rt.sweeps.metrics.harness import Harness
from pythia_rt.sweeps.metrics.heads import HeadScores
from pythia_rt.sweeps.metrics.last_words import LastWords
from pythia_rt.sweeps.metrics.memorisation import Memorisation
from pythia_rt.sweeps.metrics.ngram import Ngram
from pythia_rt.sweeps.metrics.perplexity import Perplexity
from pythia_rt.sweeps.metrics.token_stats import TokenStats

METRICS: tuple[type[Metric], ...] = (
    Perplexity,
    TokenStats,
    Memorisation,
    LastWords,
    Continuations,
    Divergence,
    Ngram,
    HeadScores,
    Harness,
)

__all__ = ["METRICS", "read_metrics"]

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def read_metrics(given: Iterable[Metric | str | Callable[..., Any]]) -> list[Metric]:
    """Metrics of what a user names: themselves, functions of a model, or texts.

    A text is NAME, or NAME:VALUE,OPTION=VALUE,... with a metric's name from METRICS, where a VALUE
    without an option's name is that of the first option, or "package.module:function". Raises
    ValueError for what is none, with the names that are near.
    """
    if isinstance(given, (str, Metric)) or callable(given):
        given = [given]
    if not isinstance(given, Iterable):
        raise ValueError(f"{shown(given)} is no metric: give a name, a Metric or a function")
    found = []
    for each in given:
        if isinstance(each, Metric):
            found.append(each)
        elif isinstance(each, str):
            found.append(_read(each))
        elif isinstance(each, type):
            raise ValueError(f"{each.__name__} is a kind of metric: make one of its options")
        elif callable(each):
            found.append(Function(each))
        else:
            raise ValueError(f"{shown(each)} is no metric: give a name, a Metric or a function")
    if not found:
        raise ValueError("there is nothing to measure: name at least one metric")
    asked = [json.dumps([each.title, each.options()], sort_keys=True) for each in found]
    for each, text in zip(found, asked, strict=True):
        if asked.count(text) > 1:
            raise ValueError(
                f"{each.title} is asked twice in the same words: name it once, and functions by "
                "names of their own"
            )
    return found


def _read(text: str) -> Metric:
    kinds = {kind.name: kind for kind in METRICS}
    name, colon, rest = text.partition(":")
    if name not in kinds:
        near = difflib.get_close_matches(name, kinds, n=3, cutoff=0.4)
        is_function = _FUNCTION.fullmatch(text) is not None
        see_modules_here()
        if is_function and not (near and importlib.util.find_spec(name.partition(".")[0]) is None):
            return Function.named(text)
        meant = f" did you mean {' or '.join(near)}?" if near else ""
        nor = ", nor a module of that name" if is_function else ""
        raise ValueError(
            f"there is no metric {name!r}{nor}:{meant} There are {', '.join(kinds)}, and "
            "package.module:function"
        )
    kind = kinds[name]
    options = {each.name: each for each in dataclasses.fields(kind)}
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for number, part in enumerate(rest.split(",") if colon else []):
        key, sign, value = part.partition("=")
        if not sign and number == 0:
            key, value = next(iter(options)), part
        if key in options and not value:
            raise ValueError(f"{key} of {name} has no value: write {name}:{key}=VALUE")
        if key in values:
            raise ValueError(f"{name} has {key} twice: give it once")
        if key not in options:
            near = difflib.get_close_matches(key, options, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise ValueError(
                f"{name} has no option {key!r}: {meant}It takes {', '.join(options)}, as "
                f"{name}:{next(iter(options))}=VALUE"
            )
        values[key] = _value(name, key, hints[key], value)
    lacking = [
        option.name
        for option in options.values()
        if option.name not in values and option.default is dataclasses.MISSING
    ]
    if lacking:
        raise ValueError(f"{name} needs {' and '.join(lacking)}: write {name}:{lacking[0]}=VALUE")
    return kind(**values)


def _value(metric: str, option: str, hint: Any, text: str) -> Any:
    if hint is GivenField:
        return Path(text)
    if hint is not int and int not in get_args(hint):
        return text
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{option} of {metric} is a whole number, not {text!r}") from None
