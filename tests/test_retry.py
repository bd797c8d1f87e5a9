"""How often the hub is asked, and after which pauses: for lists, parts of files and files."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from local_hub import BLOCK, Fault, LocalHub, say
from local_hub_handler import Handler

from pythia_rt.convert.source import fetch, file_digests, list_revisions, read_ranges, retry

NAME = "someone/tiny"
FILE = "model.safetensors"
WEIGHTS = bytes(range(256)) * 2000


def refs() -> object:
    """A question to the API."""
    return [revision.name for revision in list_revisions(NAME)]


def part() -> object:
    """A question for a part of a file."""
    return read_ranges(NAME, "main", FILE, [(5, 9)])


def weights() -> object:
    """A question for a file; the others are small and there."""
    return (fetch(NAME) / FILE).read_bytes()


ASKED = {refs: "/refs", part: FILE, weights: FILE}
GOOD = {refs: ["main"], part: [WEIGHTS[5:9]], weights: WEIGHTS}
TRIES = {refs: 4, part: 5, weights: 6}
every = pytest.mark.parametrize("ask", ASKED, ids=lambda ask: ask.__name__)


@pytest.fixture
def hub(local_hub: LocalHub) -> LocalHub:
    """One model."""
    local_hub.add(NAME, "main", {"config.json": b"{}", FILE: WEIGHTS})
    return local_hub


@pytest.fixture
def pauses(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that are made, in seconds; nobody waits for them."""
    made: list[float] = []

    def pause(seconds: float, stop: threading.Event) -> None:
        if seconds:
            made.append(seconds)

    monkeypatch.setattr(retry, "PAUSE", 1.0)
    monkeypatch.setattr(retry, "pause", pause)
    return made


def asked(hub: LocalHub, ask: Callable[[], object]) -> int:
    """How many requests there were for what `ask` asks."""
    return sum(request.path.endswith(ASKED[ask]) for request in hub.requests)


@every
@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_fails(
    hub: LocalHub, pauses: list[float], ask: Callable[[], object], status: int
) -> None:
    """The last try is answered; one failure more, and it is said."""
    hub.fail(ASKED[ask], status, times=TRIES[ask] - 1)
    assert ask() == GOOD[ask]
    assert asked(hub, ask) == TRIES[ask]
    assert pauses == [2.0**n for n in range(TRIES[ask] - 1)]


@every
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (say(500), "status 500"),
        (say(429), "the hub's rate limit is used up"),
        (lambda handler: handler.wfile.write(b"\0" * 99), "RemoteProtocolError"),
    ],
)
def test_a_server_that_goes_on_failing(
    hub: LocalHub,
    pauses: list[float],
    ask: Callable[[], object],
    answer: Callable[[Handler], None],
    why: str,
) -> None:
    hub.answer(ASKED[ask], answer)
    with pytest.raises(ConnectionError, match=why):
        ask()
    waits = 30 if ask is weights and "limit" in why else 0
    assert asked(hub, ask) == waits + TRIES[ask]
    assert pauses == [1.0] * waits + [2.0**n for n in range(TRIES[ask] - 1)]


@every
@pytest.mark.parametrize("status", [429, 503])
def test_a_wait_that_the_server_says(
    hub: LocalHub, pauses: list[float], ask: Callable[[], object], status: int
) -> None:
    hub.answer(ASKED[ask], say(status, b"", {"Retry-After": "7"}), times=2)
    assert ask() == GOOD[ask]
    assert pauses == [7.0, 7.0]


def test_files_wait_for_a_limit_longer(hub: LocalHub, pauses: list[float]) -> None:
    """Waits that the server asks for are no tries, as long as there are not too many."""
    hub.answer(FILE, say(429, b"", {"Retry-After": "7"}), times=30)
    hub.fail(FILE, 500, times=5, skip=30)
    assert weights() == WEIGHTS
    assert pauses == [7.0] * 30 + [1.0, 2.0, 4.0, 8.0, 16.0]


def test_a_limit_without_end(hub: LocalHub, pauses: list[float]) -> None:
    """Whoever gives up does so without asking before it is time."""
    hub.answer(FILE, say(429, b"", {"Retry-After": "7"}))
    with pytest.raises(ConnectionError, match=r"\(the hub's rate limit is used up\)"):
        weights()
    assert pauses == [7.0] * (30 + TRIES[weights] - 1)


@every
def test_what_is_no_limit_says_no_wait(
    hub: LocalHub, pauses: list[float], ask: Callable[[], object]
) -> None:
    hub.answer(ASKED[ask], say(500, b"", {"Retry-After": "7"}), times=1)
    assert ask() == GOOD[ask]
    assert pauses == [1.0]


def test_an_address_that_is_too_long(hub: LocalHub, pauses: list[float]) -> None:
    with pytest.raises(ConnectionError, match=r"cannot read 'xx+\.\.\.' \(InvalidURL\): try again"):
        read_ranges(NAME, "main", "x" * 70_000, [(0, 1)])
    with pytest.raises(ConnectionError, match="InvalidURL"):
        file_digests(NAME, "x" * 70_000)
    assert not pauses and not hub.requests


def test_progress_is_no_failure(hub: LocalHub, pauses: list[float]) -> None:
    """A try that brings bytes is followed by the next at once, however many there are."""
    hub.cut(FILE, BLOCK)
    hub.fail(FILE, 500, times=5, skip=1)
    hub.faults.append(Fault(FILE, "cut", 1, at=7, skip=6))
    hub.fail(FILE, 500, times=5, skip=7)
    assert weights() == WEIGHTS
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0] * 2
