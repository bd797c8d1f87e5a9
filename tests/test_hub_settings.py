"""What is asked of the hub: how long, at which address, into which cache; and what then is said."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from filelock import FileLock
from local_hub import LocalHub, say, says_json

from pythia_rt import checkpoints
from pythia_rt.cli import main
from pythia_rt.convert import CheckpointError
from pythia_rt.convert.source import download, fetch, listing, rates, read_ranges, settings
from pythia_rt.suites.audit import audit

NAME = "someone/tiny"
FILE = "model.safetensors"
WEIGHTS = b"weights" * 10_000
FILES = {"config.json": b"{}", FILE: WEIGHTS}
API = "/api/models/*"


@pytest.fixture
def hub(local_hub: LocalHub) -> LocalHub:
    """One model."""
    local_hub.add(NAME, "main", FILES)
    return local_hub


# How long they take.


def test_a_hub_that_says_nothing(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.1")
    silent = threading.Event()
    hub.answer(API, lambda _: silent.wait() and None)
    try:
        with pytest.raises(FileNotFoundError, match=r"the hub does not answer \(ReadTimeout\)"):
            fetch(NAME)
        with pytest.raises(ConnectionError, match=r"does not answer \(ReadTimeout\): check the ne"):
            checkpoints(NAME)
        with pytest.raises(ConnectionError, match=r"does not answer \(ReadTimeout\): check the ne"):
            audit(NAME)
    finally:
        silent.set()


def test_an_answer_that_takes_too_long(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_LONGEST_ANSWER", -1.0)
    with pytest.raises(FileNotFoundError, match=r"the hub does not answer \(it is too slow\)"):
        fetch(NAME)


@pytest.mark.parametrize("value", ["nan", "-1", "inf", "0", "1e300", "soon", ""])
def test_a_timeout_that_is_none(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", value)
    assert settings.timeout() == 10


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "9" * 5000}, 1e9),
        ({"retry-after": "1000000000"}, 1e9),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),  # over
        ({"retry-after": "Wed, 21 Oct 99999 07:28:00 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 +99999999999"}, None),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 -0000"}, 1e9),
        ({"ratelimit": f'"api";r=0;t={"9" * 5000}'}, None),
        ({"ratelimit": '"api";r=0;t=999999999999'}, 999999999999),
        ({"ratelimit": '"api";r=499;t=200'}, None),  # a window that is not used up
        ({"ratelimit": '"api";r=499;t=200', "retry-after": "3"}, 3),
        ({"ratelimit": '"api";t=5;r=0'}, None),
        ({"ratelimit": '"api";r=0;t=-5'}, None),
    ],
)
def test_waits_that_are_absurd(headers: dict[str, str], seconds: float | None) -> None:
    assert rates.wait_of(headers) == seconds
    pace = rates.Pace()
    pace.observe(headers)
    if "r=0" in headers.get("ratelimit", "") and seconds:
        with pytest.raises(ConnectionError, match="try again later"):
            pace.wait(threading.Event())
    else:
        pace.wait(threading.Event())


def test_a_wait_until_a_date() -> None:
    until = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(seconds=1000)
    header = {"retry-after": format_datetime(until, usegmt=True)}
    begin = datetime.now(timezone.utc)
    seconds = rates.wait_of(header) or 0
    end = datetime.now(timezone.utc)
    assert (until - end).total_seconds() <= seconds <= (until - begin).total_seconds()


def test_a_limit_without_headers_is_asked_again(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fail(FILE, 429, times=20)
    hub.fail(API, 429, times=3)
    assert (fetch(NAME) / FILE).read_bytes() == WEIGHTS
    hub.add(NAME, "step1", FILES)
    hub.answer(API, say(429, b"", {"Retry-After": "1000000000"}))
    with pytest.raises(ConnectionError, match="used up for 1000000000 s more: try again later"):
        checkpoints(NAME)
    with pytest.raises(FileNotFoundError, match="not in the cache, and the hub's rate limit is us"):
        fetch(NAME, "step1")
    assert (fetch(NAME, hub.commit(NAME, "main")) / FILE).exists()


# Addresses.


@pytest.mark.parametrize("suffix", ["/", "//"])
def test_an_address_with_a_slash(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url + suffix)
    assert (fetch(NAME) / FILE).read_bytes() == WEIGHTS
    assert not [r.path for r in hub.requests if "//" in r.path]


def test_an_address_with_a_path(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a proxy of a company."""
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/mirror/hub")
    with pytest.raises(FileNotFoundError, match="nor a model of the hub"):
        fetch(NAME)
    assert [r.path for r in hub.requests] == [f"/mirror/hub/api/models/{NAME}/revision/main"]


def test_an_addresss_password_is_not_shown(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url.replace("//", "//me:secret@"))
    hub.answer(API, says_json([]))
    with pytest.raises(CheckpointError, match=r"^http://127\.0\.0\.1:\d+ does not say"):
        fetch(NAME)
    hub.faults.clear()
    hub.fail(FILE, 403)
    with pytest.raises(PermissionError) as caught:
        read_ranges(NAME, "main", FILE, [(0, 1)])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["hub.example", "https://", "http://a b", "http://x:y", "ftp://x", "http://x?y=3",
                "http://[::1", "https://h\u00fcb"],
)  # fmt: skip
def test_addresses_that_are_none(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(ValueError, match=r"HF_ENDPOINT is .* which is no address"):
        settings.endpoint()


def test_a_proxy_is_asked(hub: LocalHub, tmp_path: Path) -> None:
    """The hub stands in for a proxy: it is asked for a path of another host."""
    environment = os.environ | hub.environment(tmp_path / "cache")
    environment |= {"HF_ENDPOINT": "http://hub.invalid", "HTTP_PROXY": hub.url, "NO_PROXY": ""}
    environment = {k: v for k, v in environment.items() if k not in ("no_proxy", "http_proxy")}
    script = "import sys; from pythia_rt.convert.source import fetch; print(fetch(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", script, NAME], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / FILE).read_bytes() == WEIGHTS


# The cache.


def test_whoever_waits_for_another_process_can_be_stopped(hub: LocalHub) -> None:
    """A lock that is held for long does not hold Ctrl-C, or another file's error."""
    hub.fail("config.json", 403, times=None)
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    store = download.Store(settings.hub_cache(), NAME)
    held = threading.Event()
    done = threading.Event()

    def hold() -> None:
        with FileLock(store.lock(digest).lock_file):
            held.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert held.wait(120)
        with pytest.raises(PermissionError, match="is gated"):
            fetch(NAME)
        assert not done.is_set() and holder.is_alive()
    finally:
        done.set()
        holder.join()


def test_weights_that_a_crash_cut_short_come_again(hub: LocalHub) -> None:
    """A file system may have the name of a file and not its bytes."""
    folder = fetch(NAME)
    blob = (folder / FILE).resolve()
    blob.write_bytes(WEIGHTS[:100])
    assert (fetch(NAME) / FILE).read_bytes() == WEIGHTS
    # Where a file system has no links.
    (folder / FILE).unlink()
    (folder / FILE).write_bytes(b"")
    assert (fetch(NAME) / FILE).read_bytes() == WEIGHTS


def test_a_link_out_of_the_cache_is_not_followed_when_dropping(
    hub: LocalHub, tmp_path: Path
) -> None:
    folder = fetch(NAME)
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(WEIGHTS)
    (folder / FILE).unlink()
    (folder / FILE).symlink_to(mine)
    assert download.Store(settings.hub_cache(), NAME).drop(folder.name, [FILE]) == 0
    assert mine.read_bytes() == WEIGHTS


def test_a_full_cache_serves_where_nothing_can_be_written(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, "step1", {"config.json": b"[]", FILE: WEIGHTS})
    folder = fetch(NAME)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    for name in ("mkdir", "write_text", "replace", "symlink_to", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    assert fetch(NAME) == folder
    says = (
        r"someone/tiny is not all in .*hub, which cannot be written \(Permission denied\): set HF"
    )
    with pytest.raises(PermissionError, match=says):
        fetch(NAME, "step1")


# The commands.


def test_commands_without_the_hub(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = CliRunner()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for command in ("audit", "checkpoints"):
        result = runner.invoke(main, [command, NAME])
        assert result.exit_code == 1
        assert "the hub does not answer (ConnectError): check the network" in result.stderr
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = runner.invoke(main, ["audit", NAME])
    assert result.exit_code == 1 and "and HF_HUB_OFFLINE is set: unset it" in result.stderr
    assert "Traceback" not in result.stderr
    with pytest.raises(ConnectionError, match="is on the hub and HF_HUB_OFFLINE is set: unset it"):
        read_ranges(NAME, "main", FILE, [(0, 1)])
    assert not hub.requests


def test_a_dead_holder_of_a_lock_holds_nothing(hub: LocalHub, tmp_path: Path) -> None:
    """The system takes the lock from whoever is killed."""
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    path = download.Store(settings.hub_cache(), NAME).lock(digest).lock_file
    script = (
        "import sys, time; from filelock import FileLock; FileLock(sys.argv[1]).acquire();"
        "print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script, path], stdout=-1, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        threading.Timer(0.3, process.kill).start()
        assert (fetch(NAME) / FILE).read_bytes() == WEIGHTS
        assert process.wait() == -9
