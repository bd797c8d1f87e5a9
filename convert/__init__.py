"""From a Hugging Face checkpoint to a flat file, and back from the flat file into memory.

Importing this package is cheap: what a name needs is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conversion import convert
    from .errors import CheckpointError, FlatFileError
    from .flatfile import FlatFile
    from .source.checkpoint import Checkpoint
    from .source.hub import resolve
else:
    from .lazy import lazy_names

    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "conversion": ("convert",),
            "errors": ("CheckpointError", "FlatFileError"),
            "flatfile": ("FlatFile",),
            "source.checkpoint": ("Checkpoint",),
            "source.hub": ("resolve",),
        },
    )

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "FlatFile",
    "FlatFileError",
    "convert",
    "resolve",
]
