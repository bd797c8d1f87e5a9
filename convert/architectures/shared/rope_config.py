"""Reads what a config.json says about rotations, in every spelling transformers has written.

Source: huggingface/transformers, modeling_rope_utils.py, 5.x; 4.x has the same keys elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...errors import quote
from ...flatfile.spec import is_number
from .config import Config, agreed, config_error

_DICTIONARIES = ("rope_parameters", "rope_scaling")
_VALUES = ("rope_theta", "partial_rotary_factor")
_ORIGINAL = "original_max_position_embeddings"
# What a kind of scaling may be given: numbers, but for `truncate`.
KINDS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "proportional": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", _ORIGINAL),
    "yarn": (
        *("factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
        *("truncate", _ORIGINAL),
    ),
}
_NEEDED = ("factor", "low_freq_factor", "high_freq_factor")


class RopeConfig(NamedTuple):
    """The base of the frequencies, the rotated fraction of a head, and how they are scaled."""

    base: float
    fraction: float
    kind: str
    parameters: dict[str, Any]


def read_rope(
    config: Config,
    *,
    base: float,
    fraction: float = 1.0,
    kinds: Sequence[str] = tuple(KINDS),
    old: Mapping[str, str] | None = None,
) -> RopeConfig:
    """Return what is said, where nothing is the default `base` and `fraction`.

    `old` has a family's own names of "rope_theta" and "partial_rotary_factor". All spellings must
    agree. Raises CheckpointError, naming the key, for what is invalid or of none of `kinds`.
    """
    found: dict[str, dict[str, Any]] = {key: {} for key in _VALUES}
    scaling: dict[str, dict[str, Any]] = {}
    kind: dict[str, str] = {}
    for name in _DICTIONARIES:
        for key, value in _dictionary(config, name, kinds, kind).items():
            spellings = found if key in found else scaling
            spellings.setdefault(key, {})[f"{name}.{key}"] = value
    for key in _VALUES:
        names = (key, (old or {}).get(key, key))
        found[key] |= {k: config.data[k] for k in names if config.data.get(k) is not None}
    what = agreed(kind) if kind else "default"
    if what in ("llama3", "yarn"):
        for key in (_ORIGINAL, "max_position_embeddings"):
            if config.data.get(key) is not None and (key == _ORIGINAL or _ORIGINAL not in scaling):
                scaling.setdefault(_ORIGINAL, {})[key] = config.data[key]
                break
    for key in KINDS[what]:
        if key in _NEEDED and key not in scaling and what != "proportional":
            raise config_error(f"asks for rope_type {quote(what)} without {key}: add it")
    parameters = {key: _one(values) for key, values in scaling.items()}
    part = _one(found["partial_rotary_factor"], fraction)
    if part > 1:
        key = next(iter(found["partial_rotary_factor"]))
        raise config_error(f"rotates more than the whole head: set {key} to at most 1")
    return RopeConfig(_one(found["rope_theta"], base), part, what, parameters)


def _dictionary(
    config: Config, name: str, kinds: Sequence[str], kind: dict[str, str]
) -> dict[str, Any]:
    """Return what a dictionary gives but its kind, which goes into `kind` by its spelling."""
    value = config.data.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise config_error(
            f"has a {name} that is not a dictionary: remove it or fetch the file again"
        )
    given = {key: v for key, v in value.items() if v is not None}
    for key in [key for key in ("rope_type", "type") if key in given]:
        what = given.pop(key)
        if not isinstance(what, str) or what not in kinds:
            shown = quote(what) if isinstance(what, str) else "not a name"
            known = " and ".join(
                [", ".join(map(repr, kinds[:-1])), repr(kinds[-1])][not kinds[1:] :]
            )
            are = "are" if kinds[1:] else "is"
            raise config_error(
                f"asks for rope_type {shown} in {name}: only {known} {are} supported"
            )
        kind[f"{name}.{key}"] = what
    allowed = {*_VALUES, *(key for what in kind.values() for key in KINDS[what])}
    unknown = sorted(set(given) - allowed)
    if unknown:
        raise config_error(f"has {quote(unknown[0])} in {name}, which is not supported: remove it")
    return given


def _one(spellings: Mapping[str, Any], default: float = 0) -> Any:
    """Return the one positive number that every spelling gives; `truncate` is a flag."""
    for key, value in spellings.items():
        if key.endswith(".truncate") and type(value) is bool:
            continue
        if not is_number(value) or value <= 0:
            raise config_error(f"has no valid {key}: set it to a positive number")
    if not spellings:
        return default
    value = agreed(spellings)
    return value if type(value) is bool else float(value)
