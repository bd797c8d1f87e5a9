"""Packages whose names are loaded when they are first used: importing one is cheap."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping


def lazy_names(
    package: str, homes: Mapping[str, Collection[str]], modules: Collection[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return the `__getattr__` and the `__dir__` of a package, which show all of its `__all__`.

    `homes` are the names by the module below the package that has them; those of `modules` are
    modules themselves. Type checkers see nothing of this: a package imports its names for them
    under TYPE_CHECKING, and calls this in the other branch, or they would take any name for one.
    """
    module_of = {name: module for module, names in homes.items() for name in names}

    def get(name: str) -> object:
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)
        setattr(sys.modules[package], name, value)  # the next access does not come through here
        return value

    def names() -> list[str]:
        return sorted(sys.modules[package].__all__)

    return get, names
