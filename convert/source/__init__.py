"""Where models come from: folders and the hub, checkpoints and the archives they are saved in.

What others need of the hub stands here, and is loaded when it is used.
"""

from __future__ import annotations

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
else:
    from ..lazy import lazy_names

    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "hub": ("fetch",),
            "listing": (
                "Listing",
                "RemoteFile",
                "Revision",
                "file_digests",
                "list_revisions",
                "read_listing",
            ),
            "ranges": ("read_ranges",),
            "settings": ("endpoint", "hub_cache", "is_offline"),
        },
    )

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
