"""Lists of options as frozen dataclasses, whose fields carry their checks and their help texts.

The command line makes its options from them.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, TypeVar

from pythia_rt.convert.errors import shown
from pythia_rt.option_names import near_option

Read = Callable[[str, Any], Any]  # checks a value, given its option's name, and may convert it


def option(default: Any, read: Read, doc: str, **more: Any) -> Any:
    """A dataclass field that remembers how to check its value and what to say in --help.

    `more` is what the command line needs besides.
    """
    factory: dict[str, Any] = {"default_factory": dict} if default == {} else {"default": default}
    return field(**factory, metadata={"read": read, "doc": doc, **more})


@dataclass(frozen=True, kw_only=True)
class Options:
    """A list of options. Every field is checked: a bad one is a ValueError of one sentence.

    None stands for the default in every field, so a client may pass on what it was not given.
    """

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is None:
                made = each.default_factory
                value = each.default if made is MISSING else made()
            if value is not None:  # as some defaults are
                value = each.metadata["read"](each.name, value)
            object.__setattr__(self, each.name, value)  # frozen: set only here


Made = TypeVar("Made", bound=Options)


def replaced(
    kind: type[Made],
    base: Made | None,
    values: Mapping[str, Any],
    *,
    besides: Sequence[str] = (),
) -> Made:
    """`base` (or the defaults of `kind`) with some fields replaced, all checked.

    Raises ValueError for a name that is none of its fields, with a hint; `besides` are the names of
    what the caller takes in other ways.
    """
    names = [*besides, *(each.name for each in fields(kind))]
    check_names(values, names)
    if base is not None and not isinstance(base, kind):
        what = kind.__name__
        raise ValueError(f"{what.lower()} must be a pythia_rt.{what}, not {type(base).__name__}")
    return replace(base or kind(), **values)


def check_names(given: Iterable[str], names: Sequence[str]) -> None:
    """Raise ValueError for one that is none of `names`, with a hint."""
    for name in given:
        if name not in names:
            hint = near_option(name, names)
            raise ValueError(
                f"there is no option {name!r}: {hint + '; ' if hint else ''}the options are "
                f"{', '.join(names)}"
            )


def integer(accepts: Callable[[int], bool], what: str) -> Callable[[str, Any], int]:
    """A check for a whole number that `accepts`, in words `what`."""

    def read(name: str, value: Any) -> int:
        # bool is an int to Python; True as a count is a slip, not a wish.
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise ValueError(f"{name} must be {what}, not {shown(value)}")
        if not accepts(int(value)):
            raise ValueError(f"{name} must be {what}, not {value}")
        return int(value)

    return read


def whole_number_from(least: int, most: int, unit: str) -> Callable[[str, Any], int]:
    """A check for a whole number of some `unit`, within bounds."""
    return integer(lambda n: least <= n <= most, f"from {least} to {most} {unit}")


def flag(name: str, value: Any) -> bool:
    """Check for True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, not {shown(value)}")
    return value


def real(accepts: Callable[[float], bool], what: str) -> Callable[[str, Any], float]:
    """A check for a number that `accepts`, in words `what`."""

    def read(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ValueError(f"{name} must be {what}, not {shown(value)}")
        try:
            number = float(value)
        except OverflowError:
            raise ValueError(f"{name} must be {what}, not beyond all floats") from None
        if not accepts(number):  # every comparison with NaN is false, so NaN ends here
            raise ValueError(f"{name} must be {what}, not {value}")
        return number

    return read


def one_of(choices: Sequence[str]) -> Callable[[str, Any], str]:
    """A check for one of some names."""

    def read(name: str, value: Any) -> str:
        try:
            is_one = value in choices
        except ValueError:  # arrays compare entry by entry
            is_one = False
        if not is_one:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, not {shown(value)}")
        return str(value)

    return read
