"""What users see is documented and typed: every public name, its public methods and properties."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pythia_rt
from pythia_rt import convert, harvest, insides

NAMES = {
    **{name: getattr(pythia_rt, name) for name in pythia_rt.__all__},
    **{f"convert.{name}": getattr(convert, name) for name in convert.__all__},
    **{f"harvest.{name}": getattr(harvest, name) for name in harvest.__all__},
    **{f"insides.{name}": getattr(insides, name) for name in insides.__all__},
}


def functions(value: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """(name, function) of a function, or of what a class of ours defines for its users."""
    if inspect.isfunction(value):
        yield value.__name__, value
    if not inspect.isclass(value):
        return
    for owner in value.__mro__:
        if not owner.__module__.startswith("pythia_rt"):
            continue
        for name, member in vars(owner).items():
            function = member.fget if isinstance(member, property) else member
            function = getattr(function, "__func__", getattr(function, "func", function))
            # What a dataclass makes has no line of ours.
            made = name == "__init__" and hasattr(owner, "__dataclass_fields__")
            public = not name.startswith("_") or (name == "__init__" and not made)
            if inspect.isfunction(function) and public:
                yield f"{owner.__name__}.{name}", function


def lacking(function: Callable[..., Any]) -> list[str]:
    """The parameters without a type, and "return" where that has none."""
    signature = inspect.signature(function)
    found = [
        name
        for place, (name, parameter) in enumerate(signature.parameters.items())
        if parameter.annotation is parameter.empty and not (place == 0 and name in ("self", "cls"))
    ]
    if signature.return_annotation is signature.empty and function.__name__ != "__init__":
        found.append("return")
    return found


@pytest.mark.parametrize("name", [name for name in NAMES if name != "__version__"])
def test_a_public_name_is_documented_and_typed(name: str) -> None:
    value = NAMES[name]
    # Dataclasses and enumerations make docstrings of their own.
    made = (f"{getattr(value, '__name__', '')}(", enum.Enum.__doc__ or "?")
    assert value.__doc__ and not value.__doc__.startswith(made), f"{name} has no docstring"
    for place, function in functions(value):
        # A constructor is documented where it is or by its class.
        assert function.__doc__ or place.endswith(".__init__"), f"{place} has no docstring"
        assert not lacking(function), f"{place} has no type of {', '.join(lacking(function))}"


def test_the_check_sees_what_is_missing() -> None:
    class Made:
        def method(self, first: int, second, *rest, **named: int):  # type: ignore[no-untyped-def]
            """Do nothing."""

    Made.__module__ = "pythia_rt.made"
    [(place, function)] = functions(Made)
    assert (place, lacking(function)) == ("Made.method", ["second", "rest", "return"])
    # What a class has from its bases, too.
    assert {"generate", "load"} <= {place.split(".")[1] for place, _ in functions(pythia_rt.Model)}
