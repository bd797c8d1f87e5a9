"""The digest of a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

_BLOCK_BYTES = 4 << 20


def sha256_of(path: Path, stopped: Callable[[], bool] = lambda: False) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal.

    `stopped` is asked before each block of 4 MiB: once it is true, the digest of what was read
    until then is returned. Raises OSError where the file cannot be read.
    """
    digest = hashlib.sha256()  # hashlib.file_digest came with Python 3.11
    block = memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as stream:
        while not stopped() and (count := stream.readinto(block)):
            digest.update(block[:count])
    return digest.hexdigest()
