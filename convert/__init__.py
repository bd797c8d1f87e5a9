"""From a Hugging Face checkpoint to a flat file, and back from the flat file into memory.

Importing this package is cheap: what a name needs is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conversion import convert
    from .errors import CheckpointError, FlatFileError
    from .flatfile import FlatFile
    from .source.checkpoint import Checkpoint
    from .source.hub import resolve

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "FlatFile",
    "FlatFileError",
    "convert",
    "resolve",
]

_HOMES = {
    "Checkpoint": "source.checkpoint",
    "CheckpointError": "errors",
    "FlatFile": "flatfile",
    "FlatFileError": "errors",
    "convert": "conversion",
    "resolve": "source.hub",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value  # the next access does not come through here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
