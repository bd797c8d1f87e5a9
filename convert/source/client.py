"""Who asks the hub, and what its refusals mean; for its API and for its files."""

from __future__ import annotations

import re
from urllib.parse import quote as url_quote

import httpx2
from huggingface_hub import __version__ as hub_version

from pythia_rt import __version__

from .settings import endpoint, timeout, token

_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(?:\d{1,18}|\*)", re.ASCII)


def open_client() -> httpx2.Client:
    """A client for the hub: with the user's token, which other hosts do not get.

    Raises ValueError for a token that no header can hold.
    """
    agent = f"pythia_rt/{__version__}; hf_hub/{hub_version}"
    headers = {"Accept-Encoding": "identity", "User-Agent": agent}
    if (secret := token()) is not None:
        if not (secret.isascii() and secret.isprintable()):
            raise ValueError("the hub's token holds what no token does: log in with hf auth login")
        headers["Authorization"] = f"Bearer {secret}"
    return httpx2.Client(headers=headers, timeout=timeout(), follow_redirects=True)


def address(name: str, commit: str, path: str) -> str:
    """Where the file `path` of a commit is fetched from."""
    return f"{endpoint()}/{name}/resolve/{url_quote(commit, safe='')}/{url_quote(path)}"


def begin_of(response: httpx2.Response) -> int | None:
    """Where in the file the body of an answer begins; None where an answer with a part does not
    say it."""
    if response.status_code != 206:
        return 0
    match = _RANGE.fullmatch(response.headers.get("content-range", ""))
    return int(match[1]) if match else None


def gated(name: str) -> PermissionError:
    """The error for a model whose terms were not accepted."""
    return PermissionError(
        f"{name} is gated: accept its terms on the hub and log in with hf auth login"
    )


def is_the_hubs(response: httpx2.Response) -> bool:
    """Whether an answer is the hub's own and not of another host that it named.

    Only the hub says who may read what: a refusal of its CDN is of one address, and the hub gives
    another one when it is asked again.
    """
    return response.url.host == httpx2.URL(endpoint()).host
