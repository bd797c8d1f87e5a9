"""A Ray cluster as a concurrent.futures executor; Ray is the extra `ray`."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

Result = TypeVar("Result")
RETRIES = 3
LOCAL = "local"
_PATIENCE = 10  # seconds


class RayCluster(Executor):
    """Runs each call as a Ray task of `threads` processors; one whose worker dies is tried again
    elsewhere, RETRIES times.

    `address` is that of a cluster, "auto" for the one that this machine belongs to, "local" for a
    cluster that is started here and ends with the executor. Workers need pythia_rt installed, and
    local checkpoints where they find them under the same path. Raises ValueError without Ray,
    ConnectionError where no cluster answers.
    """

    def __init__(self, address: str = LOCAL, *, threads: int = 1) -> None:
        try:
            import ray
        except ImportError:
            raise ValueError(
                "a sweep over a Ray cluster needs ray: install it with pip install 'pythia_rt[ray]'"
            ) from None
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
        self._ray: Any = ray
        self._threads = threads
        self._shared: dict[int, tuple[Any, Any]] = {}
        self._started = not ray.is_initialized()
        if self._started:
            _check_address(address)
            try:
                with _quiet():
                    ray.init(
                        address=address,
                        include_dashboard=False if address == LOCAL else None,
                        log_to_driver=False,
                        configure_logging=False,
                    )
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ConnectionError(
                    f"no Ray cluster answers at {address} ({str(error).splitlines()[0]}): start "
                    "one, or let local start one here"
                ) from None

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Run `fn` on the cluster. Arguments are sent to the cluster once, however often the same
        object is passed, and must not change."""
        remote = self._ray.remote(num_cpus=self._threads, max_retries=RETRIES)(fn)
        found: Future[Result] = remote.remote(*map(self._sent, args), **kwargs).future()
        return found

    def _sent(self, argument: Any) -> Any:
        if id(argument) not in self._shared:  # the object is kept, so its id is not used again
            self._shared[id(argument)] = (argument, self._ray.put(argument))
        return self._shared[id(argument)][1]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster; what has not ended is lost."""
        self._shared.clear()
        if self._started:
            self._ray.shutdown()
            self._started = False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ray warns of what it has chosen itself, as how the processes of a new cluster trust."""
    logger = logging.getLogger("ray")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _check_address(address: str) -> None:
    """Raise ConnectionError where nobody answers: Ray itself asks for minutes, then aborts."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "://" in address:
        return
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(
            f"no Ray cluster answers at {address} ({error}): start one, or let local start one here"
        ) from None
