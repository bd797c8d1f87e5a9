"""Servers that say what is not so, or anything at all: one sentence each, no byte is believed."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from local_hub import BLOCK, LocalHub, say, says_json
from local_hub_handler import Handler

from pythia_rt import checkpoints
from pythia_rt.convert import CheckpointError
from pythia_rt.convert.source import download, fetch, listing, ranges, read_ranges, settings
from pythia_rt.suites.audit import audit

NAME = "someone/tiny"
FILE = "model.safetensors"
WEIGHTS = b"".join(hashlib.sha256(bytes([i % 256, i // 256])).digest() for i in range(1 << 13))
FILES = {"config.json": b"{}", "tokenizer.json": b"{ }", FILE: WEIGHTS}
HALF = len(WEIGHTS) // 2
API = "/api/models/*"


@pytest.fixture
def hub(local_hub: LocalHub) -> LocalHub:
    local_hub.add(NAME, "main", FILES)
    return local_hub


def break_off(hub: LocalHub) -> None:
    """Let half of the weights come, and no more."""
    hub.cut(FILE, HALF)
    hub.fail(FILE, 500, times=None, skip=1)
    with pytest.raises(ConnectionError, match="goes on from where it stopped"):
        fetch(NAME)
    hub.faults.clear()


# Answers with bytes of weights.


def part(begin: int, body: bytes, total: int | str = len(WEIGHTS)) -> Callable[[Handler], None]:
    said = f"bytes {begin}-{begin + len(body) - 1}/{total}"
    return say(206, body, {"Content-Range": said})


@pytest.mark.parametrize(
    "answer",
    [
        part(HALF + 1, WEIGHTS[HALF + 1 :]),  # another part, and says so
        part(0, WEIGHTS[:HALF]),
        part(HALF, WEIGHTS[HALF + 1 :] + b"x"),  # another part, and says that it is this one
        part(HALF, WEIGHTS[HALF:], 7),  # of a file of another size
        part(HALF, WEIGHTS[HALF:] + b"more"),
        say(206, WEIGHTS[HALF:], {"Content-Range": "bytes */3"}),
        say(206, WEIGHTS[HALF:], {"Content-Range": f"bytes {'9' * 5000}-2/3"}),
        say(206, WEIGHTS[HALF:]),
        say(206, gzip.compress(WEIGHTS)[9:], {"Content-Encoding": "gzip"}),
        say(416, b"", {"Content-Range": "bytes */3"}),
        say(200, WEIGHTS, {"ETag": 'W/"weak"'}),
        say(200, gzip.compress(WEIGHTS), {"Content-Encoding": "gzip"}),
        say(200, b""),
        say(204),
    ],
)
def test_a_rest_that_is_not_the_rest(hub: LocalHub, answer: Callable[[Handler], None]) -> None:
    break_off(hub)
    hub.answer(FILE, answer, times=1)
    assert (fetch(NAME) / FILE).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (say(200, b""), "it sends less than the file has"),
        (say(200, WEIGHTS[:-1]), "it sends less than the file has"),
        (say(200, WEIGHTS + b"x"), "it sends more than the file has"),
        (part(5, WEIGHTS[5:]), "it sends another range"),
        (say(206, WEIGHTS), "it sends another range"),
        (say(200, b"\x1f\x8b" + WEIGHTS, {"Content-Encoding": "gzip"}), "DecodingError"),
        (say(302, b"", {"Location": f"/{NAME}/resolve/main/{FILE}"}), "TooManyRedirects"),
        (say(302, b"", {"Location": "ftp://127.0.0.1/x"}), "UnsupportedProtocol"),
        (say(302, b"", {"Location": "http://[/"}), "ConnectError|RemoteProtocolError"),
        (lambda handler: handler.wfile.write(b"\0" * 99), "RemoteProtocolError"),
    ],
)
def test_an_answer_that_never_is_the_file(
    hub: LocalHub, answer: Callable[[Handler], None], says: str
) -> None:
    """It ends, however little each answer brings."""
    hub.answer(FILE, answer)
    with pytest.raises(ConnectionError, match=rf"cannot fetch {FILE} of {NAME} \({says}\)"):
        fetch(NAME)
    hub.faults.clear()
    assert (fetch(NAME) / FILE).read_bytes() == WEIGHTS


def test_a_server_that_cuts_and_then_sends_another_range(hub: LocalHub) -> None:
    """What is lost each time is no progress."""

    def answer(handler: Handler) -> None:
        if handler.headers.get("Range"):
            part(1, WEIGHTS[1:])(handler)
        else:
            say(200, WEIGHTS[:HALF], {"Content-Length": str(len(WEIGHTS))})(handler)
            handler.close_connection = True

    hub.answer(FILE, answer)
    with pytest.raises(ConnectionError, match="cannot fetch"):
        fetch(NAME)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_only_the_hub_says_who_may_read(hub: LocalHub, status: int) -> None:
    """An address at the CDN that has expired is asked for again."""
    hub.redirects = True
    hub.fail("/cdn/*", status, times=2)
    assert (fetch(NAME) / FILE).read_bytes() == WEIGHTS
    hub.fail("/cdn/*", status, times=1)
    assert read_ranges(NAME, "main", FILE, [(5, 9)]) == [WEIGHTS[5:9]]
    hub.redirects = False
    hub.fail(FILE, 403, times=1)
    with pytest.raises(PermissionError, match=f"{NAME} is gated"):
        read_ranges(NAME, "main", FILE, [(5, 9)])


@pytest.mark.parametrize(
    "answer",
    [part(4, WEIGHTS[4:9]), say(206, WEIGHTS[5:9]), part(6, WEIGHTS[6:9])],
)
def test_a_range_that_is_another(hub: LocalHub, answer: Callable[[Handler], None]) -> None:
    hub.answer(FILE, answer, times=1)
    assert read_ranges(NAME, "main", FILE, [(5, 9)]) == [WEIGHTS[5:9]]
    hub.answer(FILE, say(206, WEIGHTS[5:9], {"Content-Range": "bytes 6-9/20"}))
    with pytest.raises(ConnectionError, match=rf"cannot read '{FILE}' \(it sends another range\)"):
        read_ranges(NAME, "main", FILE, [(5, 9)])


@pytest.mark.parametrize("begin", [0, 3])
def test_more_than_a_range_is_cut(hub: LocalHub, begin: int) -> None:
    hub.answer(FILE, part(begin, WEIGHTS[begin:]), times=1)
    assert read_ranges(NAME, "main", FILE, [(5, 9)]) == [WEIGHTS[5:9]]


# Who is told the token.


@pytest.mark.parametrize("from_file", [False, True])
def test_the_token_stays_with_the_hub(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_file: bool
) -> None:
    if from_file:
        (tmp_path / "token").write_text(f"{hub.token}\n")
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    else:
        monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.gated.add(NAME)
    with LocalHub(tmp_path / "other") as other:
        elsewhere = other.url.replace("127.0.0.1", "localhost")
        hub.answer(FILE, say(302, b"", {"Location": f"{elsewhere}/stolen"}))
        with pytest.raises(ConnectionError):
            fetch(NAME)
        with pytest.raises(ConnectionError):
            read_ranges(NAME, "main", FILE, [(0, 5)])
        hub.answer(API, say(302, b"", {"Location": f"{elsewhere}/stolen"}))
        with pytest.raises(FileNotFoundError):
            fetch(NAME)
        following = f'<{elsewhere}/api/models/x/tree/main?cursor=abc>; rel="next"'
        hub.faults.clear()
        hub.answer("/tree/*", say(200, b"[]", {"Link": following}), times=1)
        assert set(listing.file_digests(NAME, "main")) == set(FILES)
        assert len(other.requests) > 5
        assert not any(request.authorization for request in other.requests)
    assert all(request.authorization == f"Bearer {hub.token}" for request in hub.requests)


def test_a_token_that_nobody_knows(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    hub.fail(API, 401, times=1)
    with pytest.raises(PermissionError, match="does not know this token: log in with hf auth"):
        fetch(NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_\u00e9")
    with pytest.raises(ValueError, match="token holds what no token does: log in"):
        fetch(NAME)


# What the API says.


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ([], "which commit of someone/tiny 'main' is"),
        ({"sha": "main", "siblings": []}, "which commit of someone/tiny 'main' is"),
        ({"sha": "../" * 14, "siblings": []}, "which commit"),
        ({"sha": "0" * 40}, "what files someone/tiny has"),
        ({"sha": "0" * 40, "siblings": [3]}, "what files someone/tiny has"),
        ({"sha": "0" * 40, "siblings": [{"rfilename": FILE}]}, "what size and digest"),
        *(
            ({"sha": "0" * 40, "siblings": [file]}, "what size and digest")
            for file in (
                {"rfilename": FILE, "size": 3, "blobId": "../../x"},
                {"rfilename": FILE, "size": -1, "blobId": "0" * 40},
                {"rfilename": FILE, "size": True, "blobId": "0" * 40},
                {"rfilename": FILE, "size": 3.5, "blobId": "0" * 40},
                {"rfilename": None, "size": 3, "blobId": "0" * 40},
                {"rfilename": FILE, "size": 3, "blobId": "0" * 40, "lfs": {"sha256": "0"}},
            )
        ),
    ],
)
def test_what_is_no_list_of_files(hub: LocalHub, said: Any, says: str) -> None:
    hub.answer(API, says_json(said))
    with pytest.raises(CheckpointError, match=rf"127.0.0.1:\d+ does not say {says}.*: set HF_ENDP"):
        fetch(NAME)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"\xff", b"[" * 100_000, b"null", b'{"branches": 3}', b'{"branches": [3]}',
     b'{"branches": [{"name": "step1"}]}', b'{"branches": [{"name": 1, "targetCommit": 2}]}',
     b'{"branches": [{"name": "step1", "targetCommit": "\\u001b[2J"}]}'],
)  # fmt: skip
def test_what_is_no_list_of_branches(hub: LocalHub, body: bytes) -> None:
    hub.answer(API, say(200, body))
    for ask in (checkpoints, audit):
        with pytest.raises(CheckpointError, match=r"does not say .*: set HF_ENDPOINT to another"):
            ask(NAME)


def test_an_answer_without_end(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_JSON_BYTES", 1 << 20)
    sent = threading.Event()

    def endless(handler: Handler) -> None:
        handler.say(200, b"", {"Content-Length": str(1 << 40)})
        while True:
            handler.wfile.write(b"[" * BLOCK)
            sent.set()

    hub.answer(API, endless)
    with pytest.raises(CheckpointError, match="does not say in 1 MiB what someone/tiny has"):
        fetch(NAME)
    assert sent.is_set()


def test_a_list_without_end(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_MAX_PAGES", 3)
    hub.answer(API, say(200, b"[]", {"Link": '</api/?cursor=x>; rel="next"'}))
    with pytest.raises(CheckpointError, match=r"does not say where the list of files of .* ends"):
        listing.file_digests(NAME, "main")
    assert len(hub.requests) == 3


@pytest.mark.parametrize(
    "path",
    ["../x.jinja", "a\\b.jinja", "c:d.jinja", "nul\0.jinja", "esc\x1b[2J.jinja", "\ud800.jinja"],
)
def test_names_of_files_that_lead_elsewhere(hub: LocalHub, tmp_path: Path, path: str) -> None:
    commit = hub.commit(NAME, "main")
    file = {"rfilename": f"additional_chat_templates/{path}", "size": 0, "blobId": "0" * 40}
    said = [
        {"rfilename": name, "size": stored.size, "blobId": stored.oid}
        for name, stored in hub.files(NAME, "main").items()
    ]
    hub.answer(API, says_json({"sha": commit, "siblings": [*said, file]}))
    before = {p for p in tmp_path.rglob("*") if "served" not in p.parts}
    if "/" in path:
        # No template, so nobody asks for it.
        with pytest.raises(CheckpointError, match="which is no path"):
            download.Store(settings.hub_cache(), NAME).place(commit, file["rfilename"])
        return
    with pytest.raises(CheckpointError, match="which is no path: not fetched") as caught:
        fetch(NAME)
    assert str(caught.value).isprintable()
    made = {p for p in tmp_path.rglob("*") if "served" not in p.parts} - before
    assert not any("jinja" in p.name for p in made)


@pytest.mark.parametrize("revision", ["../../../elsewhere", "/elsewhere", "a/../../../b", "x\0"])
def test_a_revision_is_no_path(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    store = download.Store(settings.hub_cache(), NAME)
    store.set_ref(revision, "0" * 40)
    assert not list(tmp_path.rglob("elsewhere*")) and not list(tmp_path.rglob("b"))
    (tmp_path / "elsewhere").write_text("0" * 40)
    assert store.commit_of(revision) is None
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="is not in the cache"):
        fetch(NAME, revision)


def test_shards_that_no_model_has(hub: LocalHub) -> None:
    """Numbers as long as a name can be are no numbers."""
    name = f"model-{'9' * 5000}-of-{'9' * 5001}.safetensors"
    hub.add(NAME, "step0", {f"model-00001-of-{'9' * 100}.safetensors": b"x"})
    listed = [{"type": "file", "path": name, "size": 1, "oid": "0" * 40}]
    assert audit(NAME).lacking[0].what == "it has no weights"
    hub.add(NAME, "step1", {"config.json": b""})
    hub.answer(f"/tree/{hub.commit(NAME, 'step1')}", says_json(listed))
    assert [one.what for one in audit(NAME).lacking] == ["it has no weights"] * 2


def test_a_config_larger_than_any_is_not_fetched(hub: LocalHub) -> None:
    said = {"sha": hub.commit(NAME, "main"), "siblings": [
        {"rfilename": name, "size": 1 << 30, "blobId": "0" * 40} for name in FILES
    ]}  # fmt: skip
    hub.answer(API, says_json(said))
    with pytest.raises(CheckpointError, match=r"config\.json of .* has 1073741824 bytes, more"):
        fetch(NAME)
    assert not hub.count("resolve")


def test_a_list_that_was_wrong_is_asked_for_again(hub: LocalHub) -> None:
    """What a commit holds is kept: not beyond what shows that it is not so."""
    commit = hub.commit(NAME, "main")
    files = [
        {"rfilename": name, "size": stored.size, "blobId": "0" * 40}
        for name, stored in hub.files(NAME, "main").items()
    ]
    hub.answer(API, says_json({"sha": commit, "siblings": files}), times=1)
    with pytest.raises(CheckpointError, match="came damaged twice"):
        fetch(NAME, commit)
    assert hub.count("api") == 1
    assert (fetch(NAME, commit) / FILE).read_bytes() == WEIGHTS
    assert hub.count("api") == 2


def test_a_mirror_without_ranges_is_told_of(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_FAR", 10)
    hub.ranges = False
    assert read_ranges(NAME, "main", FILE, [(9, 12)]) == [WEIGHTS[9:12]]
    with pytest.warns(UserWarning, match=r"http://127\S+ sends whole files where a part is asked"):
        assert read_ranges(NAME, "main", FILE, [(11, 12)]) == [WEIGHTS[11:12]]
