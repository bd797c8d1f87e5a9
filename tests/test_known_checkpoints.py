"""The table of checkpoints that are not what their names say, and who is warned by it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from local_hub import LocalHub
from test_audit import NAME, write_table

from pythia_rt import Model
from pythia_rt.cli import main
from pythia_rt.model import DEMO_FOLDER
from pythia_rt.suites import known
from pythia_rt.suites.known import read_known, warn_if_wrong


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "known.json")


def test_the_bundled_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(known.VARIABLE, raising=False)
    found = read_known()
    assert found.date == "2026-11-27"
    assert all(entry.models and entry.what and entry.sources for entry in found.entries)
    groups = [
        set(entry.revisions)
        for entry in found.of("EleutherAI/pythia-2.8b")
        if entry.kind == "identical" and entry.state == "open"
    ]
    # pythia#205: 76 of the 154 steps are main, 10 share another file.
    assert [len(group - {"main"}) for group in groups] == [76, 10]
    assert not groups[0] & groups[1]
    assert {"step0", "step512", "step53000", "step140000"} < groups[0]
    assert {"step54000", "step56000", "step59000", "step143000"} < groups[1]


@pytest.mark.parametrize(
    ("model", "revision", "says"),
    [
        ("EleutherAI/pythia-2.8b", "step3000", "it holds the weights of main"),
        ("EleutherAI/pythia-2.8b", "step143000", "the same weights as nine other branches"),
        ("EleutherAI/pythia-12b", "step58000", "its first shard is the last step's"),
        ("EleutherAI/pythia-160m-weight-seed2", "step512", "do not descend from"),
        ("EleutherAI/pythia-160m-weight-seed2", "step0", None),
        ("EleutherAI/pythia-160m-weight-seed3", "step512", None),
        ("EleutherAI/pythia-160m-data-seed1", "step1", None),  # it has what others should not have
        ("EleutherAI/pythia-2.8b", "step54001", None),
        ("EleutherAI/pythia-2.8b", "main", None),
        ("EleutherAI/pythia-2.8b-deduped", "step3000", None),
        ("EleutherAI/pythia-70m", "step1", None),  # by design
        ("EleutherAI/pythia-12b", "step4000", None),  # fixed
    ],
)
def test_wrong_branches_are_warned_of_once(
    model: str, revision: str, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "_warned", set())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_wrong(model, revision)
        warn_if_wrong(model, revision)
    assert [says is not None and says in str(one.message) for one in caught] == [True] * bool(says)
    assert all("EleutherAI/pythia#" in str(one.message) for one in caught)


def test_the_environment_names_another_table(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "_warned", set())
    monkeypatch.setenv(known.VARIABLE, str(table))
    assert read_known().date == "2026-01-02"
    with pytest.warns(UserWarning, match="someone/tiny at step2000 is not what its name says"):
        warn_if_wrong(NAME, "step2000")


def test_loading_a_wrong_branch_warns(
    local_hub: LocalHub, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "_warned", set())
    monkeypatch.setenv(known.VARIABLE, str(table))
    for revision in ("step2", "main"):
        local_hub.add(NAME, revision, DEMO_FOLDER)
    with pytest.warns(UserWarning, match=r"tiny at step2 is not .* other weights \(someone#5\)"):
        Model.from_pretrained(NAME, step=2, progress=False)
    Model.from_pretrained(NAME, step=2, progress=False)  # once: a warning is an error here
    Model.from_pretrained(NAME, progress=False)
    asked = len(local_hub.requests)
    with pytest.warns(UserWarning, match="at step1000 is not"), pytest.raises(FileNotFoundError):
        Model.from_pretrained(NAME, step=1000, local_files_only=True)
    assert len(local_hub.requests) == asked  # said before anything is fetched
    monkeypatch.setattr(known, "_warned", set())
    done = CliRunner().invoke(main, ["convert", NAME, str(tmp_path / "flat"), "--step", "2"])
    assert done.exit_code == 0 and "Note: someone/tiny at step2 is not what its" in done.stderr


@pytest.mark.parametrize(
    "entry",
    [
        3,
        {"what": 3},
        {"kind": "odd"},
        {"steps": [[3]]},
        {"steps": [[3, 1]]},
        {"models": [1]},
        {"with": "main"},
        {"wrong": "yes"},
    ],
)
def test_a_table_of_another_form_is_refused(entry: Any, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    right = {"kind": "other", "state": "open", "what": "it is odd"}
    path.write_text(json.dumps({"date": "x", "entries": [right]}))
    read_known(path)
    wrong = {**right, **entry} if isinstance(entry, dict) else entry
    for content in ([], {}, {"date": "x", "entries": [right, wrong]}):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"table\.json"):
            read_known(path)
