"""What the environment says of the hub, read when it is asked: its address, its cache, no network.

The hub's own library reads these variables once, when it is imported.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

_TRUE = {"1", "on", "yes", "true"}
_HOME = "https://huggingface.co"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
_TIMEOUT = 10.0  # seconds, as for the hub's library
_LONGEST_TIMEOUT = 86400.0


def endpoint() -> str:
    """The address of the hub or of a mirror: $HF_ENDPOINT, or the hub's own.

    Raises ValueError where the variable is no address.
    """
    address = (os.environ.get("HF_ENDPOINT") or _HOME).rstrip("/")
    if not _is_address(address):
        raise ValueError(f"HF_ENDPOINT is {address!r}, which is no address: begin with https://")
    return address


def _is_address(text: str) -> bool:
    """Whether `text` is an address of a server, maybe with a path, and of no page of it."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    plain = text.isascii() and text.isprintable() and " " not in text
    return (
        plain
        and parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and not (parts.query or parts.fragment)
    )


def shown_endpoint() -> str:
    """The address for sentences: without the user and password that it may hold."""
    scheme, _, rest = endpoint().partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def is_offline() -> bool:
    """Whether $HF_HUB_OFFLINE or $TRANSFORMERS_OFFLINE forbids the network."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.lower() in _TRUE


def is_hub_id(name: str) -> bool:
    """Whether a model of the hub can have this name: OWNER/NAME, or NAME alone as old ones have."""
    if not _HUB_ID.fullmatch(name) or len(name) > 96 or "--" in name or ".." in name:
        return False
    return not any(part.endswith((".git", ".", "-")) for part in name.split("/"))


def token() -> str | None:
    """Who asks: $HF_TOKEN, or what `hf auth login` left, unless that is not to be sent unasked."""
    from huggingface_hub import get_token

    disabled = os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() in _TRUE
    return None if disabled else get_token()


def hub_cache(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where the hub's files are kept: in `cache_dir`, else where the hub's tools keep them."""
    get = os.environ.get
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if chosen := get("HF_HUB_CACHE") or get("HUGGINGFACE_HUB_CACHE"):
        return Path(os.path.expandvars(chosen)).expanduser()
    home = get("HF_HOME") or f"{get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def own_cache(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where this package keeps its own: in `cache_dir`, $PYTHIA_RT_CACHE or ~/.cache/pythia_rt.

    Raises OSError for a user without a home.
    """
    chosen = cache_dir or os.environ.get("PYTHIA_RT_CACHE") or "~/.cache/pythia_rt"
    try:
        return Path(chosen).expanduser()
    except RuntimeError:  # as in some containers
        raise OSError(f"{chosen} is nowhere, this user has no home: set PYTHIA_RT_CACHE") from None


def timeout() -> float:
    """Seconds without a byte after which a connection counts as lost: $HF_HUB_DOWNLOAD_TIMEOUT."""
    try:
        chosen = float(os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT") or _TIMEOUT)
    except ValueError:
        return _TIMEOUT
    return chosen if 0 < chosen < _LONGEST_TIMEOUT else _TIMEOUT
