"""Audits of suites: what is identical, mixed or missing, by the hub's digests and by tensors."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from local_hub import LocalHub
from numpy.typing import NDArray
from safetensors.numpy import save
from safetensors.numpy import save_file as save_arrays

from pythia_rt.cli import main
from pythia_rt.convert import CheckpointError
from pythia_rt.suites.audit import Audit, Identical, Lacking, Mixture, audit
from pythia_rt.suites.audit_plot import write_plot
from pythia_rt.suites.audit_table import lines, name_steps

Arrays = dict[str, NDArray[Any]]
NAME = "someone/tiny"
LOG_STEPS = [0, *(2**n for n in range(10))]
ALL_STEPS = [*LOG_STEPS, *range(1000, 144_000, 1000)]


def make_tensors(seed: int) -> Arrays:
    random = np.random.default_rng(seed)
    return {
        "embed.weight": random.normal(size=(6, 4)).astype("f4"),
        "layers.0.dense.weight": random.normal(size=(4, 4)).astype("f4"),
        "layers.0.dense.bias": np.zeros(4, "f4"),
        "layers.0.attention.bias": np.tril(np.ones((1, 1, 4, 4), "u1")),
    }


def write(folder: Path, tensors: Arrays, kind: str = "safetensors") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "bin":
        torch.save(
            {n: torch.from_numpy(t.copy()) for n, t in tensors.items()},
            folder / "pytorch_model.bin",
        )
    else:
        save_arrays(tensors, folder / "model.safetensors")


def shards(seeds: list[int]) -> dict[str, bytes]:
    """A checkpoint in as many files as there are seeds, of which each makes one."""
    total = len(seeds)
    return {
        f"pytorch_model-{n + 1:05}-of-{total:05}.bin": save(
            {f"layers.{n}.weight": make_tensors(seed)["embed.weight"]}
        )
        for n, seed in enumerate(seeds)
    }


def told(found: Audit) -> str:
    return "\n".join(lines(found))


def write_table(path: Path) -> Path:
    """What is known of the suite below."""
    entries = [
        {
            "models": ["*tiny"], "steps": [0, 1], "kind": "identical", "state": "by design",
            "what": "the first update does nothing", "sources": ["the script"],
        },
        {
            "models": ["*tiny"], "steps": [2, [1000, 3000]], "kind": "identical", "state": "open",
            "wrong": True, "what": "it holds other weights", "sources": ["someone#5"],
        },
    ]  # fmt: skip
    path.write_text(json.dumps({"date": "2026-01-02", "entries": entries}))
    return path


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Steps 0 to 8, of which the first two are equal, and main, which is the last."""
    for step, seed in {0: 0, 1: 0, 2: 2, 4: 4, 8: 8}.items():
        write(tmp_path / "tiny" / f"step{step}", make_tensors(seed))
    shutil.copytree(tmp_path / "tiny" / "step8", tmp_path / "tiny" / "main")
    return tmp_path / "tiny"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "known.json")


@pytest.mark.parametrize("deep", [False, True])
def test_a_suite_without_faults(deep: bool, suite: Path, table: Path) -> None:
    found = audit(suite, deep=deep, known=table)
    assert [branch.revision for branch in found.branches] == [
        "step0", "step1", "step2", "step4", "step8", "main",
    ]  # fmt: skip
    assert found.identical == (
        Identical(("step0", "step1"), "the first update does nothing"),
        Identical(("step8", "main"), "main is the last step"),
    )
    assert (found.wrong, found.main) == ([], "the last step")
    assert "nothing else is equal, mixed or missing" in told(found)
    assert found.compared == ("tensors" if deep else "files")
    assert json.loads(json.dumps(found.to_dict()))["main"] == "the last step"


@pytest.mark.parametrize("deep", [False, True])
def test_identical_steps_and_another_main(deep: bool, suite: Path, table: Path) -> None:
    shutil.copytree(suite / "step0", suite / "step2", dirs_exist_ok=True)
    shutil.copytree(suite / "step0", suite / "main", dirs_exist_ok=True)
    found = audit(suite, deep=deep, known=table)
    assert found.identical == (
        # Two of them are equal by design, which does not explain the others.
        Identical(("step0", "step1", "step2", "main"), ""),
    )
    assert (found.wrong, found.main) == ([*found.identical], "another than the last step")
    assert "IDENTICAL   4 branches: main, step0, step1, step2" in told(found)
    shutil.copytree(suite / "step2", suite / "step1000")
    (only,) = audit(suite, deep=deep, known=table).identical
    assert only.known == ("someone#5: open",)


def test_only_deep_sees_equal_values_in_other_bytes(suite: Path, table: Path) -> None:
    """A -0, other masks, and another kind of file."""
    tensors = make_tensors(2)
    tensors["layers.0.dense.bias"] *= -1
    tensors["layers.0.attention.bias"] *= 3
    write(suite / "step4", tensors)
    write(suite / "step6", make_tensors(2), kind="bin")
    assert audit(suite, known=table).wrong == []
    found = audit(suite, deep=True, known=table)
    assert found.wrong == [Identical(("step2", "step4", "step6"), "")]
    assert len(set(found.digests.values())) == 3


def test_only_deep_sees_a_tensor_of_another_step(suite: Path, table: Path) -> None:
    tensors = make_tensors(4)
    tensors["embed.weight"] = make_tensors(8)["embed.weight"]
    write(suite / "step4", tensors)
    assert audit(suite, known=table).wrong == []
    found = audit(suite, deep=True, known=table)
    assert found.mixtures == (Mixture("step4", "step8", ("embed.weight",), 2),)
    assert "MIXED       step4 has 1 of its 2 matrices from step8: embed.weight" in told(found)


@pytest.mark.parametrize("deep", [False, True])
def test_empty_branches_and_missing_shards(deep: bool, suite: Path, table: Path) -> None:
    (suite / "main" / "model.safetensors").unlink()
    (suite / "step16").mkdir()
    (suite / "step32").mkdir()
    for name, content in shards([1, 2, 3]).items():
        if "00002" not in name:
            (suite / "step32" / name).write_bytes(content)
    found = audit(suite, deep=deep, known=table)
    assert found.lacking == (
        Lacking("step16", "it has no weights"),
        Lacking("step32", "it lacks the shards 2 of 3 (bin)"),
        Lacking("main", "it has no weights"),
    )
    assert found.main == "empty"
    assert "MISSING     step16: it has no weights" in told(found)


def test_links_to_nothing_and_folders_are_no_weights(suite: Path, table: Path) -> None:
    """As a copy of the hub's cache has them without its blobs."""
    for step in (2, 4):
        (suite / f"step{step}" / "model.safetensors").unlink()
    (suite / "step2" / "model.safetensors").symlink_to("../blobs/gone")
    (suite / "step4" / "model.safetensors").mkdir()
    found = audit(suite, known=table)
    assert found.lacking == (
        Lacking("step2", "it has no weights"),
        Lacking("step4", "it has no weights"),
    )


def test_progress_is_told_of_every_branch_that_is_read(suite: Path) -> None:
    told: list[tuple[int, int]] = []
    audit(suite, steps=[1, 2], progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_some_steps_of_a_suite(suite: Path, table: Path) -> None:
    found = audit(suite, steps=[1, 2, 3], known=table)
    assert [branch.revision for branch in found.branches] == ["step1", "step2", "main"]
    assert found.lacking == (Lacking("step3", "there is no such branch"),)
    assert found.main == "not compared"
    assert told(audit(suite, steps=[1], known=table)).startswith(f"{suite}: 1 step, compared")


# From the hub.


def serve(hub: LocalHub) -> None:
    """A suite of 154 steps in three files each, with the faults that Pythia's have."""
    for number, step in enumerate(ALL_STEPS):
        seeds = [3 * number, 3 * number + 1, 3 * number + 2]
        if step == 1:
            seeds = [0, 1, 2]
        if step in (3000, 4000, 7000):
            seeds = [3 * 153, 3 * 153 + 1, 3 * 153 + 2]
        hub.add(NAME, f"step{step}", shards(seeds))
    hub.add_shards_of(NAME, "step50000", "step143000", "*-00001-of-*")
    hub.add(NAME, "main", shards([3 * 153, 3 * 153 + 1, 3 * 153 + 2]))


def test_154_branches_take_no_more_than_160_requests(local_hub: LocalHub, table: Path) -> None:
    serve(local_hub)
    heard: list[tuple[int, int]] = []
    found = audit(NAME, known=table, progress=lambda done, total: heard.append((done, total)))
    assert len(local_hub.requests) <= 160
    assert sorted(heard) == [(n, 155) for n in range(1, 156)]
    assert [branch.step for branch in found.branches] == [*ALL_STEPS, None]
    assert found.branches[5].commit == local_hub.commit(NAME, "step16")
    assert found.identical == (
        Identical(("step0", "step1"), "the first update does nothing"),
        Identical(("step3000", "step4000", "step7000", "step143000", "main"), ""),
    )
    shared = ("pytorch_model-00001-of-00003.bin",)
    assert found.mixtures == (Mixture("step50000", "step143000", shared, 3),)
    assert (found.lacking, found.main) == ((), "the last step")


def test_kinds_of_files_are_compared_with_their_own(local_hub: LocalHub, table: Path) -> None:
    """Some branches have safetensors, some .bin, some both."""
    one, two, three = (save(make_tensors(seed)) for seed in range(3))
    local_hub.add(NAME, "step0", {"pytorch_model.bin": one})
    local_hub.add(NAME, "step2", {"model.safetensors": two})
    local_hub.add(NAME, "step4", {"model.safetensors": two, "pytorch_model.bin": one})
    local_hub.add(NAME, "step8", {"model.safetensors": three, "pytorch_model.bin": three})
    local_hub.add(NAME, "step16", {"pytorch_model.bin": three})
    found = audit(NAME, known=table)
    assert [group.revisions for group in found.identical] == [
        ("step2", "step4"),
        ("step8", "step16"),
    ]
    assert found.main == "not there"


@pytest.mark.parametrize("whole", [False, True])
def test_deep_reads_ranges_of_remote_files(
    whole: bool, local_hub: LocalHub, table: Path, tmp_path: Path
) -> None:
    """What lies behind the first 64 KiB of a matrix is seen by reading all of it alone."""
    random = np.random.default_rng(0)
    large = random.normal(size=(700_000, 2)).astype("f4")  # 5.6 MB
    other = large.copy()
    other[-1, -1] += 1
    for step, values, kind in ((0, large, "safetensors"), (2, large, "bin"), (4, other, "bin"),
                               (8, large + 1, "safetensors")):  # fmt: skip
        folder = tmp_path / f"made{step}"
        write(folder, make_tensors(0) | {"large.weight": values}, kind)
        local_hub.add(NAME, f"step{step}", folder)
    assert audit(NAME, known=table).wrong == []
    local_hub.requests.clear()
    found = audit(NAME, deep=True, whole=whole, known=table)
    (group,) = found.identical
    assert group.revisions == (("step0", "step2") if whole else ("step0", "step2", "step4"))
    # The small matrices are those of seed 0 everywhere.
    assert ("step8", 2, 3) in {(m.revision, len(m.shared), m.total) for m in found.mixtures}
    assert found.read == ("all" if whole else "the first 64 KiB of each matrix")
    sent = sum(request.sent for request in local_hub.requests)
    assert sent > 4 * large.nbytes if whole else sent < large.nbytes


def test_a_damaged_remote_file_is_told(local_hub: LocalHub, table: Path) -> None:
    local_hub.add(NAME, "step0", {"model.safetensors": b"\xff" * 100})
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated or is not a"):
        audit(NAME, deep=True, known=table)


def test_what_is_no_suite(local_hub: LocalHub, tmp_path: Path) -> None:
    local_hub.add("someone/plain", "main", {"model.safetensors": b""})
    with pytest.raises(FileNotFoundError, match="has no branches step0, step1"):
        audit("someone/plain")
    with pytest.raises(FileNotFoundError, match="nor a model of the hub"):
        audit("someone/nothing")
    with pytest.raises(FileNotFoundError, match="has no folders step0, step1"):
        audit(tmp_path)
    (tmp_path / "main").mkdir()
    (tmp_path / "main" / "model.safetensors").touch()
    read: list[int] = []  # none of its weights: that could take long
    with pytest.raises(FileNotFoundError, match="has no folders step0, step1"):
        audit(tmp_path, progress=lambda done, total: read.append(done))
    assert not read
    with pytest.raises(ValueError, match="whole has no effect without deep"):
        audit(tmp_path, whole=True)
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist: give a table"):
        audit(tmp_path, known=tmp_path / "none.json")
    wrong: list[Any] = [[], 5, "12", [-1], [True]]
    for steps in wrong:
        with pytest.raises(ValueError, match="steps must be whole numbers"):
            audit(tmp_path, steps=steps)


# As lines, picture and command.


def test_runs_of_steps_have_short_names() -> None:
    assert name_steps(["step2000", "main", "step1000", "step512", "step4000", "step3000"]) == (
        "main, step512, step1000 to step4000 in thousands"
    )
    assert name_steps(["step1000", "step2000"]) == "step1000, step2000"


def test_the_command(suite: Path, table: Path, tmp_path: Path) -> None:
    shutil.copytree(suite / "step2", suite / "step4", dirs_exist_ok=True)
    picture, file = tmp_path / "audit.png", tmp_path / "audit.json"
    done = CliRunner().invoke(
        main,
        ["audit", str(suite), "--known", str(table), "--deep", "--plot", str(picture),
         "--json", str(file)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "IDENTICAL   2 branches: step2, step4" in done.output
    assert json.loads(file.read_text())["identical"][1]["revisions"] == ["step2", "step4"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    done = CliRunner().invoke(main, ["audit", str(suite), "--steps", "one"])
    assert (done.exit_code, "give whole numbers" in done.output) == (2, True)


def test_the_findings_are_shown_where_they_cannot_be_written(
    suite: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    arguments = ["audit", str(suite), "--known", str(table), "--json", str(tmp_path / "audit.json")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1 and "No space left on device" in done.stderr
    assert "nothing else is equal, mixed or missing" in done.stdout


def test_a_picture_of_154_squares(local_hub: LocalHub, table: Path, tmp_path: Path) -> None:
    serve(local_hub)
    local_hub.add(NAME, "step5000", {"README.md": b""})
    write_plot(audit(NAME, known=table), tmp_path / "audit.png")
    assert (tmp_path / "audit.png").stat().st_size > 20_000


def test_help_and_a_folder_need_no_hub_library(suite: Path) -> None:
    script = (
        "import sys; from pythia_rt.suites.audit import audit; audit(sys.argv[1]);"
        "print('huggingface_hub' in sys.modules, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, suite], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False False\n"
