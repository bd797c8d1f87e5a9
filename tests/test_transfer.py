"""Files from the hub: continued where another process was killed, verified, in the hub's cache."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from huggingface_hub import hf_hub_download, scan_cache_dir
from local_hub import BLOCK, Fault, LocalHub

from pythia_rt.convert import CheckpointError, convert
from pythia_rt.convert.source import download, fetch, listing, rates, retry, settings, transfer
from pythia_rt.convert.source.client import open_client

NAME = "someone/tiny"
FILE = "model.safetensors"
WEIGHTS = b"".join(hashlib.sha256(bytes([i % 256, i // 256])).digest() for i in range(1 << 16))
FILES = {"config.json": b"{}", "tokenizer.json": b"{ }", FILE: WEIGHTS}


directly_and_redirected = pytest.mark.parametrize(
    "hub", [False, True], ids=["direct", "redirected"], indirect=True
)


@pytest.fixture
def hub(local_hub: LocalHub, request: pytest.FixtureRequest) -> LocalHub:
    local_hub.redirects = getattr(request, "param", False)
    local_hub.add(NAME, "main", FILES)
    return local_hub


def sent(hub: LocalHub) -> int:
    """How many bytes of weights were sent."""
    of_weights = (r for r in hub.requests if r.path.endswith(FILE) or r.kind == "cdn")
    return sum(r.sent for r in of_weights if r.status < 300)


def blobs(hub_cache: Path) -> list[Path]:
    return sorted((hub_cache / "models--someone--tiny" / "blobs").iterdir())


def pattern(hub: LocalHub) -> str:
    return "/cdn/*" if hub.redirects else FILE


@directly_and_redirected
def test_files_lie_as_the_hubs_tools_keep_them(hub: LocalHub, tmp_path: Path) -> None:
    folder = fetch(NAME)
    commit = hub.commit(NAME, "main")
    repository = tmp_path / "hub" / "models--someone--tiny"
    assert folder == repository / "snapshots" / commit
    assert (repository / "refs" / "main").read_text() == commit
    for name, content in FILES.items():
        assert (folder / name).read_bytes() == content
        link = (folder / name).readlink()
        assert not link.is_absolute() and link.name == hub.files(NAME, "main")[name].etag
    assert len(blobs(tmp_path / "hub")) == len(FILES)
    asked = len(hub.requests)
    found = hf_hub_download(NAME, FILE, cache_dir=tmp_path / "hub", local_files_only=True)
    assert Path(found) == folder / FILE
    info = scan_cache_dir(tmp_path / "hub")
    assert not info.warnings
    assert [r.commit_hash for repo in info.repos for r in repo.revisions] == [commit]
    assert len(hub.requests) == asked
    # What others fetched is taken, and what is there costs one request.
    assert fetch(NAME) == folder and len(hub.requests) == asked + 1


@directly_and_redirected
@pytest.mark.parametrize("ranges", [True, False])
def test_a_body_that_is_cut_short_is_continued(hub: LocalHub, ranges: bool) -> None:
    hub.ranges = ranges
    for at in (5 * BLOCK, 7, BLOCK):
        hub.cut(pattern(hub), at)
    assert (fetch(NAME) / FILE).read_bytes() == WEIGHTS
    extra = 0 if ranges else 5 * BLOCK + 7 + BLOCK
    assert sent(hub) == len(WEIGHTS) + extra


FETCH = "import sys; from pythia_rt.convert.source import fetch; print(fetch(sys.argv[1]))"


@directly_and_redirected
def test_a_killed_process_is_continued_by_the_next(hub: LocalHub, tmp_path: Path) -> None:
    hub.slow(pattern(hub), pause=0.02)
    environment = os.environ | hub.environment(tmp_path / "hub")
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    part = tmp_path / "hub" / "models--someone--tiny" / "blobs" / f"{digest}.part"
    held = [0]
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        hub.hold(pattern(hub), 9 * BLOCK)  # nobody gets to the end, however late the signal is
        process = subprocess.Popen(
            [sys.executable, "-c", FETCH, NAME], env=environment, stderr=subprocess.DEVNULL
        )
        # In the middle of what comes, some of which is written.
        while process.poll() is None:
            if part.exists() and part.stat().st_size > held[-1] + 2 * BLOCK:
                break
            time.sleep(0.005)
        process.send_signal(number)
        assert process.wait() == -number
        assert [path for path in blobs(tmp_path / "hub") if path.suffix == ".part"] == [part]
        held.append(part.stat().st_size)
    held = held[1:]
    said = json.loads(part.with_name(f"{part.name}.json").read_text())
    assert said["digest"] == digest
    assert said["commit"] == hub.commit(NAME, "main") and said["etag"]
    hub.faults.clear()
    assert (fetch(NAME) / FILE).read_bytes() == WEIGHTS
    # No byte that was written is asked for again.
    assert [int(r.range[6:-1]) for r in hub.requests if r.range and r.status == 206] == held
    assert 0 < held[0] < held[1] < held[2] < len(WEIGHTS)
    # What was under way came to nobody.
    assert sent(hub) < len(WEIGHTS) + len(held) * 7 * BLOCK
    assert not [path for path in blobs(tmp_path / "hub") if ".part" in path.name]


@directly_and_redirected
def test_no_byte_is_taken_that_is_not_the_hubs(hub: LocalHub, tmp_path: Path) -> None:
    hub.flip(pattern(hub), 3 * BLOCK + 5)
    with pytest.raises(CheckpointError, match=r"model\.safetensors of .* came damaged twice"):
        fetch(NAME)
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    assert digest not in [path.name for path in blobs(tmp_path / "hub")]
    assert sent(hub) == 2 * len(WEIGHTS)
    with pytest.raises(CheckpointError, match="came damaged twice"):
        convert(NAME, tmp_path / "flat")
    assert not (tmp_path / "flat").exists()
    hub.faults.clear()
    hub.flip(pattern(hub), 5, times=1)
    assert (fetch(NAME) / FILE).read_bytes() == WEIGHTS


def test_small_files_are_verified_as_git_does(hub: LocalHub) -> None:
    hub.flip("config.json")
    with pytest.raises(CheckpointError, match=r"config\.json of .* came damaged twice"):
        fetch(NAME)


def break_off(hub: LocalHub) -> None:
    """Let the first four blocks of the weights come, and no more in this process's tries."""
    hub.cut(pattern(hub), 4 * BLOCK)
    hub.fail(pattern(hub), 500, times=None, skip=1)
    with pytest.raises(ConnectionError, match=r"status 500.*goes on from where it stopped"):
        fetch(NAME)
    hub.faults.clear()


def test_what_was_there_is_verified_too(hub: LocalHub, tmp_path: Path) -> None:
    break_off(hub)
    [part] = [path for path in blobs(tmp_path / "hub") if path.suffix == ".part"]
    data = bytearray(part.read_bytes())
    assert len(data) == 4 * BLOCK
    data[9] ^= 1  # a disk that forgets
    part.write_bytes(data)
    assert (fetch(NAME) / FILE).read_bytes() == WEIGHTS
    assert sent(hub) == 2 * len(WEIGHTS)  # the rest, then all of it


@directly_and_redirected
def test_an_etag_that_changed_in_between(hub: LocalHub) -> None:
    """A server that has another file under the same name is asked for all of it."""
    break_off(hub)
    for request in hub.requests:
        request.sent = 0
    [sidecar] = [p for p in blobs(settings.hub_cache()) if p.name.endswith(".part.json")]
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"etag": '"another"'}))
    assert (fetch(NAME) / FILE).read_bytes() == WEIGHTS
    assert sent(hub) == len(WEIGHTS)


@pytest.mark.parametrize("damage", ["no sidecar", "other digest", "no json", "too long"])
def test_a_part_that_is_not_of_this_file(hub: LocalHub, damage: str) -> None:
    break_off(hub)
    [sidecar] = [p for p in blobs(settings.hub_cache()) if p.name.endswith(".part.json")]
    part = sidecar.with_name(sidecar.name.removesuffix(".json"))
    if damage == "no sidecar":
        sidecar.unlink()
    elif damage == "other digest":
        sidecar.write_text('{"digest": "0"}')
    elif damage == "no json":
        sidecar.write_text("[")
    else:
        part.write_bytes(WEIGHTS + b"x")
    for request in hub.requests:
        request.sent = 0
    assert (fetch(NAME) / FILE).read_bytes() == WEIGHTS
    assert sent(hub) == len(WEIGHTS)


def test_a_branch_that_moved_in_between(hub: LocalHub) -> None:
    break_off(hub)
    changed = WEIGHTS[::-1]
    hub.add(NAME, "main", FILES | {FILE: changed})
    assert (fetch(NAME) / FILE).read_bytes() == changed


def test_a_file_that_changed_under_its_commit(hub: LocalHub) -> None:
    """What the hub lists decides: a mirror that serves another file is not believed."""
    hub.change(NAME, "main", "config.json", b"[]")
    listed = listing.read_listing(NAME, "main")
    hub.change(NAME, "main", "config.json", b"{}")
    with open_client() as client:
        store = download.Store(settings.hub_cache(), NAME)
        one = transfer.Transfer(client, store, NAME, listed.commit)
        with pytest.raises(CheckpointError, match="came damaged twice"):
            one.fetch(listed.files["config.json"])


def test_errors_of_the_server_are_waited_for(hub: LocalHub) -> None:
    hub.fail(pattern(hub), 503, times=3)
    hub.fail("/api/models/*", 502, times=2)
    assert (fetch(NAME) / FILE).read_bytes() == WEIGHTS


def test_a_server_that_stays_broken(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.fail("config.json", 503, times=None)
    with pytest.raises(ConnectionError, match=r"cannot fetch config\.json of .* \(status 503\)"):
        fetch(NAME)
    hub.faults.clear()
    hub.fail("/api/models/*", 503, times=None)
    with pytest.raises(FileNotFoundError, match=r"does not answer \(status 503\)"):
        fetch(NAME)


def test_rate_limits_are_kept(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on where somebody waits, and nowhere else."""
    now = [0.0]
    waiting = threading.Lock()

    def pause(seconds: float, stop: threading.Event) -> None:
        with waiting:
            now[0] += max(0.0, seconds)

    hub.clock = lambda: now[0]
    monkeypatch.setattr(rates, "time", SimpleNamespace(monotonic=hub.clock))
    for module in (rates, retry):
        monkeypatch.setattr(module, "pause", pause)
    hub.limit("api", 1, seconds=1)
    hub.limit("resolve", 2, seconds=1)
    assert len(listing.list_revisions(NAME)) == 1
    assert (fetch(NAME) / FILE).read_bytes() == WEIGHTS
    late = [r.kind for r in hub.requests if r.status == 429]
    assert late.count("api") == 1
    assert late.count("resolve") <= 3  # of those under way, not a stream of them
    assert now[0] >= 2  # a window of each


def test_a_limit_of_hours_is_not_waited_for(hub: LocalHub) -> None:
    hub.limit("resolve", 0, seconds=5000)
    with pytest.raises(ConnectionError, match=r"used up for \d+ s more: try again later"):
        fetch(NAME)


def test_long_waits_are_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.warns(UserWarning, match="going on in 30 s"):
        rates.pause(30.0, stop)
    pace = rates.Pace()
    pace.observe({"ratelimit": '"resolvers";r=0;t=2000'})
    with pytest.raises(ConnectionError, match="try again later"):
        pace.wait(stop)
    assert rates.wait_of({"retry-after": "7"}) == 7
    assert rates.wait_of({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) is None


def test_slow_is_not_lost_and_silent_is(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "60")
    with open_client() as client:
        assert client.timeout == httpx2.Timeout(60)  # of each read, not of all of them
    hub.slow(pattern(hub), pause=0.01, block=1 << 15, times=1)
    assert (fetch(NAME) / FILE).read_bytes() == WEIGHTS
    assert sent(hub) == len(WEIGHTS)
    hub.add(NAME, "step1", FILES | {FILE: WEIGHTS[1:]})
    hub.hold(pattern(hub), 3 * BLOCK)
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    assert (fetch(NAME, "step1") / FILE).read_bytes() == WEIGHTS[1:]


@directly_and_redirected
def test_tokens(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated.add(NAME)
    with pytest.raises(PermissionError, match="is gated: accept its terms"):
        fetch(NAME)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    fetch(NAME)
    for request in hub.requests[-3:]:
        elsewhere = request.kind == "cdn"
        assert request.authorization == (None if elsewhere else f"Bearer {hub.token}")


def test_two_processes_fetch_a_file_once(hub: LocalHub, tmp_path: Path) -> None:
    hub.slow(pattern(hub), pause=0.01)
    environment = os.environ | hub.environment(tmp_path / "hub")
    both = [
        subprocess.Popen([sys.executable, "-c", FETCH, NAME], env=environment, text=True, stdout=-1)
        for _ in range(2)
    ]
    folders = {process.communicate()[0].strip() for process in both}
    assert len(folders) == 1 and sent(hub) == len(WEIGHTS)
    assert (Path(folders.pop()) / FILE).read_bytes() == WEIGHTS


def test_several_files_come_at_once(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of these is answered before all are asked for."""
    shards = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    index = {"weight_map": {f"t{i}": name for i, name in enumerate(shards)}}
    files = {name: name.encode() * 1000 for name in shards}
    files |= {"model.safetensors.index.json": json.dumps(index).encode(), "config.json": b"{}"}
    hub.add(NAME, "step1", files)
    barrier = threading.Barrier(len(shards), timeout=120)
    take = hub.take_faults

    def wait_for_all(path: str) -> list[Fault]:
        if "-of-" in path:
            barrier.wait()
        return take(path)

    monkeypatch.setattr(hub, "take_faults", wait_for_all)
    folder = fetch(NAME, "step1")
    assert all((folder / name).read_bytes() == content for name, content in files.items())


def test_equal_files_of_two_branches_are_fetched_once(hub: LocalHub) -> None:
    hub.add(NAME, "step1", FILES)
    assert fetch(NAME) != fetch(NAME, "step1")
    assert sent(hub) == len(WEIGHTS)


def test_a_disk_without_room(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: type("U", (), {"free": 1000})())
    with pytest.raises(OSError, match=r"no room for someone/tiny .* 0\.0 GB are free"):
        fetch(NAME)
    assert sent(hub) == 0


def test_a_disk_that_is_full_in_the_middle(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    write = transfer._Part.write

    def fill(self: transfer._Part, data: bytes) -> None:
        if self.size > 3 * BLOCK:
            with self._room():
                raise OSError(28, "No space left on device")
        write(self, data)

    with monkeypatch.context() as patched:
        patched.setattr(transfer._Part, "write", fill)
        with pytest.raises(OSError, match=r"no room for model\.safetensors .* what has come stays"):
            fetch(NAME)
    before = sent(hub)
    assert (fetch(NAME) / FILE).read_bytes() == WEIGHTS
    assert sent(hub) - before < len(WEIGHTS) - 2 * BLOCK


def test_offline(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"HF_HUB_OFFLINE is set: unset it"):
        fetch(NAME)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    folder = fetch(NAME)
    asked = len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(NAME) == folder and len(hub.requests) == asked


def test_an_address_that_is_none(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "hub.example")
    with pytest.raises(ValueError, match=r"HF_ENDPOINT is 'hub\.example', which is no address"):
        fetch(NAME)


@pytest.mark.parametrize("path", ["../x.jinja", "/x", "a/../../x", "", "C:x", "a\\b"])
def test_paths_outside_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(CheckpointError, match="which is no path"):
        download.Store(tmp_path, NAME).place("0" * 40, path)


def test_a_file_that_others_use_is_not_dropped(hub: LocalHub, tmp_path: Path) -> None:
    hub.add(NAME, "step1", FILES)
    first, second = fetch(NAME), fetch(NAME, "step1")
    store = download.Store(tmp_path / "hub", NAME)
    assert store.drop(first.name, [FILE]) == 0
    assert not (first / FILE).exists() and (second / FILE).read_bytes() == WEIGHTS
    assert store.drop(second.name, [FILE]) == len(WEIGHTS)
    assert len(blobs(tmp_path / "hub")) == len(FILES) - 1
