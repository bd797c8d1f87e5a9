"""The progress bar of a conversion: bytes of the source read, and tensors done."""

from __future__ import annotations

from typing import final

from tqdm import tqdm

from .files.closing import Closing


@final
class Progress(Closing):
    """A tqdm bar over `total` bytes and `tensors` tensors; silent when not `enabled`."""

    def __init__(self, total: int, tensors: int, *, enabled: bool) -> None:
        self._tensors = tensors
        self._done = 0
        self._bar = tqdm(
            total=total,
            desc="converting",
            unit="B",
            unit_scale=True,
            disable=not enabled,
        )
        self._bar.set_postfix_str(self._count(), refresh=False)

    def add_bytes(self, count: int) -> None:
        """Count `count` more bytes of the source as done."""
        self._bar.update(count)

    def add_tensor(self) -> None:
        """Count one more tensor as done."""
        self._done += 1
        self._bar.set_postfix_str(self._count(), refresh=False)

    def close(self) -> None:
        """Take the bar off the terminal."""
        self._bar.close()

    def _count(self) -> str:
        return f"{self._done}/{self._tensors} tensors"
