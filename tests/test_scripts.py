"""What ./scripts/test decides with: the names of test files, what to install, stale proofs."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["test_scripts", "scripts", "test_scripts.py", __file__])
def test_a_test_file_has_many_names(name: str) -> None:
    assert load("names").find(name) == "tests/test_scripts.py"
    done = run("names.py", "conformance", name)
    assert (done.returncode, done.stdout) == (0, "conformance\ntests/test_scripts.py\n")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("samplin", ["sampling", "sampling_options"]),
        ("test_structrue", ["structure"]),
        ("conformence", ["conformance"]),
        ("tests/test_cuda.py", ["cuda_cases", "cuda_compiled", "cuda_models", "cuda_mutations"]),
    ],
)
def test_a_wrong_name_leads_to_names_like_it(name: str, near: list[str]) -> None:
    done = run("names.py", "test_api", name)
    assert (done.returncode, done.stdout) == (1, "")
    sentence = re.fullmatch(
        rf"error: there is no test file '{name}'; near it are (.+)\n", done.stderr
    )
    assert sentence, done.stderr
    assert set(near) <= set(sentence[1].split(", "))


def test_a_name_like_no_other() -> None:
    with pytest.raises(LookupError, match=r"^there is no test file 'zzzz'; ls tests lists those"):
        load("names").find("zzzz")


def test_requirements_are_those_of_the_project() -> None:
    requirements = load("requirements").requirements
    plain, tests = requirements([]), requirements(["build", "test"])
    assert any(line.startswith("pybind11==") for line in plain)
    assert any(line.startswith("tokenizers") for line in plain)
    assert set(plain) < set(tests)
    assert {re.split(r"[^\w-]", line)[0] for line in tests} >= {"cmake", "ninja", "pytest", "torch"}
    with pytest.raises(KeyError):
        requirements(["no such extra"])


@pytest.fixture
def proofs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """scripts/proofs.py, on a repository with two parts."""
    module = load("proofs")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for name in ("one/a.txt", "one/b.txt", "two/c.txt", "tests/test_it.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "PROVED", tmp_path / "tests" / "proved.json")
    monkeypatch.setattr(module, "PARTS", {"first": ("one", "tests"), "second": ("two",)})
    return module


def test_a_proof_holds_until_one_of_its_files_changes(proofs: Any, tmp_path: Path) -> None:
    assert proofs.stale() == ["first", "second"]
    proofs.record(["first"])
    assert proofs.stale() == ["second"]
    proofs.record(["second"])
    assert proofs.stale() == []
    assert list(json.loads(proofs.PROVED.read_text())) == ["first", "second"]
    (tmp_path / "two" / "c.txt").write_text("changed")
    assert proofs.stale() == ["second"]
    (tmp_path / "two" / "c.txt").write_text("two/c.txt")
    assert proofs.stale() == []


@pytest.mark.parametrize("change", ["added", "deleted", "renamed"])
def test_other_files_are_a_change_too(proofs: Any, tmp_path: Path, change: str) -> None:
    proofs.record(["first", "second"])
    if change == "added":
        (tmp_path / "one" / "new.txt").write_text("")
    elif change == "deleted":
        (tmp_path / "one" / "a.txt").unlink()
    else:
        (tmp_path / "one" / "a.txt").rename(tmp_path / "one" / "z.txt")
    assert proofs.stale() == ["first"]


def test_ignored_files_are_no_change(proofs: Any, tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.so\n")
    proofs.record(["first", "second"])
    (tmp_path / "one" / "built.so").write_text("")
    assert proofs.stale() == []


def test_the_committed_proofs_are_of_parts_that_there_are() -> None:
    module = load("proofs")
    assert set(module.proved()) <= set(module.PARTS)
    for paths in module.PARTS.values():
        assert all((ROOT / path).exists() for path in paths)


def test_what_is_no_command_of_the_proofs() -> None:
    done = run("proofs.py", "record", "everything")
    assert done.returncode == 2
    assert "Parts: cuda, sanitizers, examples" in done.stderr


@pytest.mark.parametrize("name", ["test", "demo", "steps.sh", "environment.sh"])
def test_shell_scripts_can_be_read(name: str) -> None:
    subprocess.run(["bash", "-n", str(SCRIPTS / name)], check=True)
