"""Options of metrics that are whole numbers, and what they may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, field
from typing import Any

from pythia_rt.options import integer

_READ = "read"


def whole(least: int, most: int | None = None, *, what: str = "", default: Any = MISSING) -> Any:
    """A field of a metric's class for a whole number from `least` to `most`, in words `what`.

    An int without it is from 1, as counts are: one that may be 0, a seed or a step, says so here.
    """
    words = what or (f"{least} or more" if most is None else f"from {least} to {most}")
    read = integer(lambda n: least <= n and (most is None or n <= most), words)
    given: dict[str, Any] = {} if default is MISSING else {"default": default}
    return field(**given, metadata={_READ: read})


_count = integer(lambda n: n >= 1, "1 or more")


class WholeField:
    """The attribute of such a field (`base.metric`), which checks what it is set to.

    None is taken where the field's type has it. Raises ValueError for anything else, on the class
    for its own default.
    """

    def __init__(self, metric: str, option: Field[Any], *, has_none: bool) -> None:
        self._option = option
        self._title = f"{option.name} of {metric}"
        self._read: Callable[[str, Any], int] = option.metadata.get(_READ, _count)
        self._has_none = has_none
        if option.default is not MISSING:
            self._checked(option.default)

    def __get__(self, owner: object, kind: type) -> Any:
        if owner is not None:
            return vars(owner)[self._option.name]
        if self._option.default is MISSING:
            raise AttributeError(self._option.name)  # as a field without a default has none
        return self._option.default

    def __set__(self, owner: object, value: object) -> None:
        vars(owner)[self._option.name] = self._checked(value)

    def _checked(self, value: object) -> int | None:
        return None if value is None and self._has_none else self._read(self._title, value)
