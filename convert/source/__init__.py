"""Where models come from: folders and the hub, checkpoints and the archives they are saved in.

What others need of the hub stands here, and is loaded when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .hub import fetch
    from .listing import (
        Listing,
        RemoteFile,
        Revision,
        file_digests,
        list_revisions,
        read_listing,
    )
    from .ranges import read_ranges
    from .settings import endpoint, hub_cache, is_offline

__all__ = [
    "Listing",
    "RemoteFile",
    "Revision",
    "endpoint",
    "fetch",
    "file_digests",
    "hub_cache",
    "is_offline",
    "list_revisions",
    "read_listing",
    "read_ranges",
]

_HOMES = {
    "Listing": "listing",
    "RemoteFile": "listing",
    "Revision": "listing",
    "endpoint": "settings",
    "fetch": "hub",
    "file_digests": "listing",
    "hub_cache": "settings",
    "is_offline": "settings",
    "list_revisions": "listing",
    "read_listing": "listing",
    "read_ranges": "ranges",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
