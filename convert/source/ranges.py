"""Parts of files on the hub, without the rest: nothing says that they are right, no digest is
of a part."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import httpx2

from ..errors import CheckpointError, quote
from .client import address, begin_of, gated, is_the_hubs, open_client
from .retry import AgainError, keep_asking, refusal
from .settings import is_offline, shown_endpoint

_TRIES = 5
_FAR = 16 << 20  # bytes that come for nothing, from which on that is worth a warning
_NEAR = 1 << 16  # bytes between two ranges that are fetched as one


def read_ranges(
    name: str,
    revision: str,
    path: str,
    ranges: Sequence[tuple[int, int]],
    *,
    client: httpx2.Client | None = None,
) -> list[bytes]:
    """The bytes [begin, end) of the file `path` of a model for each of `ranges`, in their order.

    Ranges that lie near one another are one request. A server that knows no ranges is read up to
    the end of each. Give a commit as `revision` where several calls are to see the same file, and a
    `client` of open_client() where there are many. Raises CheckpointError for a file that
    is not there or shorter, ValueError for no range, ConnectionError when the hub does not answer.
    """
    for begin, end in ranges:
        if not 0 <= begin <= end:
            raise ValueError(f"{begin} to {end} is no range: begin with the smaller number")
    if is_offline():
        raise ConnectionError(f"{quote(path)} is on the hub and HF_HUB_OFFLINE is set: unset it")
    if client is None:
        with open_client() as own:
            return read_ranges(name, revision, path, ranges, client=own)
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(r for r in ranges if r[0] < r[1]):
        if merged and begin <= merged[-1][1] + _NEAR:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    read = {begin: _read(client, (name, revision, path), begin, end) for begin, end in merged}
    found = []
    for begin, end in ranges:
        start = max((b for b in read if b <= begin), default=begin)
        found.append(read[start][begin - start : end - start] if begin < end else b"")
    return found


def _read(client: httpx2.Client, place: tuple[str, str, str], begin: int, end: int) -> bytes:
    def lost(why: str) -> ConnectionError:
        return ConnectionError(f"cannot read {quote(place[-1])} ({why}): try again")

    return keep_asking(lambda: _receive(client, place, begin, end), lost, _TRIES)


def _receive(client: httpx2.Client, place: tuple[str, str, str], begin: int, end: int) -> bytes:
    """Ask once."""
    name, _, path = place
    headers = {"Range": f"bytes={begin}-{end - 1}"}
    with client.stream("GET", address(*place), headers=headers) as response:
        if response.status_code == 416 or (response.status_code == 404 and is_the_hubs(response)):
            raise CheckpointError(
                f"there are no bytes {begin} to {end} of {quote(path)} on the hub: it is shorter, "
                "or not there"
            )
        if response.status_code in (401, 403) and is_the_hubs(response):
            raise gated(name)
        if response.status_code not in (200, 206):
            raise refusal(response)
        skip = begin - (start if (start := begin_of(response)) is not None else end)
        if skip < 0:
            raise AgainError("it sends another range")
        if skip > _FAR:
            warnings.warn(
                f"{shown_endpoint()} sends whole files where a part is asked for: each is read "
                "from its beginning",
                stacklevel=2,
            )
        data = bytearray()
        for block in response.iter_bytes():
            data += block[min(skip, len(block)) :]
            skip -= min(skip, len(block))
            if len(data) >= end - begin:
                break
        if len(data) < end - begin:
            raise CheckpointError(f"{quote(path)} ends before byte {end} on the hub")
        return bytes(data[: end - begin])
