"""The stand-in for the hub: the hub's own library finds its way in it, and its faults happen."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, errors, hf_hub_download
from local_hub import LocalHub

NAME = "someone/tiny"
WEIGHTS = bytes(range(256)) * 1000


@pytest.fixture
def hub(local_hub: LocalHub) -> LocalHub:
    local_hub.add(NAME, "step1", {"config.json": b"{}", "model.safetensors": WEIGHTS})
    return local_hub


def url(hub: LocalHub, file: str = "model.safetensors") -> str:
    return f"{hub.url}/{NAME}/resolve/step1/{file}"


@pytest.mark.parametrize("redirects", [False, True])
def test_the_hubs_library_reads_it(hub: LocalHub, tmp_path: Path, redirects: bool) -> None:
    hub.redirects = redirects
    hub.add(NAME, "main", {"config.json": b"{}", "folder/x.json": b"[]"}, commit="a" * 40)
    api = HfApi(endpoint=hub.url)
    refs = {b.name: b.target_commit for b in api.list_repo_refs(NAME).branches}
    assert refs == {"step1": hub.commit(NAME, "step1"), "main": "a" * 40}
    info = api.model_info(NAME, revision="step1", files_metadata=True)
    assert info.sha == refs["step1"]
    found = {s.rfilename: (s.size, s.lfs.sha256 if s.lfs else s.blob_id) for s in info.siblings}
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    empty_object = hashlib.sha1(b"blob 2\0{}").hexdigest()
    assert found == {"config.json": (2, empty_object), "model.safetensors": (256000, digest)}
    tree = {f.path: f for f in api.list_repo_tree(NAME, revision="step1", recursive=True)}
    assert tree["model.safetensors"].lfs.sha256 == digest
    assert tree["config.json"].blob_id == empty_object
    [one] = api.get_paths_info(NAME, ["folder/x.json", "none"], revision="main")
    assert one.size == 2
    path = hf_hub_download(
        NAME, "model.safetensors", revision="step1", cache_dir=tmp_path / "c", endpoint=hub.url
    )
    assert Path(path).read_bytes() == WEIGHTS
    assert Path(path).resolve().name == digest


def test_what_the_hub_refuses(hub: LocalHub) -> None:
    api = HfApi(endpoint=hub.url)
    with pytest.raises(errors.RevisionNotFoundError):
        api.model_info(NAME, revision="step2")
    with pytest.raises(errors.RepositoryNotFoundError):
        api.model_info("no/body")
    assert httpx2.get(url(hub, "none")).headers["X-Error-Code"] == "EntryNotFound"
    hub.gated.add(NAME)
    with pytest.raises(errors.GatedRepoError):
        api.model_info(NAME, revision="step1")
    assert HfApi(endpoint=hub.url, token=hub.token).model_info(NAME, revision="step1").sha


def test_ranges(hub: LocalHub) -> None:
    etag = httpx2.head(url(hub)).headers["ETag"]
    for range_, condition, status, body in [
        ("bytes=256000-", None, 416, b""),
        ("bytes=255-257", None, 206, WEIGHTS[255:258]),
        ("bytes=255990-", etag, 206, WEIGHTS[255990:]),
        ("bytes=-3", None, 206, WEIGHTS[-3:]),
        ("bytes=255990-", '"another"', 200, WEIGHTS),
    ]:
        headers = {"Range": range_} | ({"If-Range": condition} if condition else {})
        answer = httpx2.get(url(hub), headers=headers)
        assert (answer.status_code, answer.content) == (status, body)
    hub.ranges = False
    assert httpx2.get(url(hub), headers={"Range": "bytes=9-"}).status_code == 200


def test_faults(hub: LocalHub) -> None:
    hub.cut("model.safetensors", 1000)
    with pytest.raises(httpx2.RemoteProtocolError):
        httpx2.get(url(hub))
    assert hub.sent("model.safetensors") == 1000
    hub.flip("model.safetensors", 700, times=1)
    wrong = httpx2.get(url(hub), headers={"Range": "bytes=600-"}).content
    assert [i for i, (a, b) in enumerate(zip(wrong, WEIGHTS[600:], strict=True)) if a != b] == [100]
    hub.fail("model.safetensors", 503, times=2)
    assert [httpx2.get(url(hub)).status_code for _ in range(3)] == [503, 503, 200]
    before = httpx2.head(url(hub, "config.json")).headers["ETag"]
    hub.change(NAME, "step1", "config.json", b"[]")
    assert httpx2.head(url(hub, "config.json")).headers["ETag"] != before


def test_limits(hub: LocalHub) -> None:
    hub.limit("api", 2, seconds=60)
    answers = [httpx2.get(f"{hub.url}/api/models/{NAME}/refs") for _ in range(3)]
    assert [a.status_code for a in answers] == [200, 200, 429]
    assert answers[2].headers["RateLimit"].startswith('"api";r=0;t=')
    assert answers[2].headers["RateLimit-Policy"] == '"fixed window";"api";q=2;w=60'
    assert hub.count("api") == 3 and httpx2.get(url(hub, "config.json")).status_code == 200


def test_branches_that_share_files(hub: LocalHub) -> None:
    hub.add_empty(NAME)
    shards = {f"model-0000{i}-of-00002.safetensors": bytes([i]) * 100 for i in (1, 2)}
    other = {name: content + b"x" for name, content in shards.items()}
    hub.add(NAME, "step2", shards)
    hub.add(NAME, "step3", other)
    hub.add_shards_of(NAME, "step2", "step3", "model-00001*")
    mixed, final = hub.files(NAME, "step2"), hub.files(NAME, "step3")
    assert [mixed[name] == final[name] for name in shards] == [True, False]
    assert set(hub.files(NAME, "main")) == {".gitattributes"}
