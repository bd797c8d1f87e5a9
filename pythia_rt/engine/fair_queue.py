"""Who is next: keys take turns, and within a key who came first."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Keyed(Protocol):
    """What waits."""

    @property
    def key(self) -> str:
        """Whose it is."""


Item = TypeVar("Item", bound=Keyed)


class FairQueue(Generic[Item]):
    """A queue of queues. Not for several threads at once."""

    def __init__(self) -> None:
        # By key; whose turn is next comes first.
        self._queues: OrderedDict[str, deque[Item]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __iter__(self) -> Iterator[Item]:
        for queue in self._queues.values():
            yield from queue

    def push(self, item: Item) -> None:
        """Add one behind those of its key."""
        self._queues.setdefault(item.key, deque()).append(item)

    def push_first(self, item: Item) -> None:
        """Put one back: it is next."""
        self._queues.setdefault(item.key, deque()).appendleft(item)
        self._queues.move_to_end(item.key, last=False)

    def peek(self) -> Item:
        """Who is next; there must be one."""
        return next(iter(self._queues.values()))[0]

    def pop(self) -> Item:
        """Take who is next; then it is another key's turn."""
        key, queue = next(iter(self._queues.items()))
        item = queue.popleft()
        del self._queues[key]
        if queue:
            self._queues[key] = queue
        return item

    def remove(self, item: Item) -> None:
        """Take one out. Raises ValueError where it is not in."""
        queue = self._queues.get(item.key, deque())
        queue.remove(item)
        if not queue:
            del self._queues[item.key]
