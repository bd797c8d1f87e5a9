"""What is closed at the end of a `with` block, whatever ended it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class Closing(ABC):
    """A context manager that gives itself and calls `close` when it is left."""

    @abstractmethod
    def close(self) -> None:
        """Release what it holds; may be called again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
