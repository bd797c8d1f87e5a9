"""Git LFS pointers: what a clone holds in place of a large file until Git LFS fetches it."""

from __future__ import annotations

# A pointer begins so and is always shorter (git-lfs/git-lfs, docs/spec.md).
POINTER_START = b"version https://git-lfs.github.com/spec/"
MAX_POINTER_BYTES = 1024


def refuse_pointer(content: bytes, where: str, error: type[ValueError]) -> None:
    """Raise `error` when `content`, all of a file, is a pointer; `where` begins the sentence."""
    if content.startswith(POINTER_START) and len(content) < MAX_POINTER_BYTES:
        raise error(
            f"{where} is a Git LFS pointer, which stands for the file and is not it: run "
            "git lfs pull in the clone that it comes from"
        )
