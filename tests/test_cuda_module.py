"""The module with CUDA, as nvcc makes it, where there is no driver: it imports and uses the CPU.

./scripts/test proofs builds it and names its folder in PYTHIA_RT_CUDA_DIR. The package that the
other tests use has no CUDA backend.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pythia_rt

VARIABLE = "PYTHIA_RT_CUDA_DIR"
ROOT = Path(__file__).resolve().parent.parent

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no build"),
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One in which Python imports the installed package with this module in it."""
    folder = tmp_path_factory.mktemp("with_cuda")
    package = Path(pythia_rt.__file__).parent
    shutil.copytree(package, folder / "pythia_rt", ignore=shutil.ignore_patterns("_core*.so"))
    (built,) = Path(os.environ[VARIABLE]).glob("_core*.so")
    (folder / "pythia_rt" / built.name).symlink_to(built)
    return {**os.environ, "PYTHONPATH": str(folder), "CUDA_VISIBLE_DEVICES": ""}


def run(arguments: list[str], environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_it_says_why_no_device_can_be_used(environment: dict[str, str], tmp_path: Path) -> None:
    script = "from pythia_rt import _core; print(_core.__file__); print(_core.cuda_unavailable())"
    where, reason = run(["-c", script], environment, tmp_path).splitlines()
    assert where.startswith(environment["PYTHONPATH"])
    assert reason and "has no CUDA backend" not in reason


@pytest.mark.parametrize("name", ["test_api.py", "test_cli.py", "test_loading.py"])
def test_the_processor_does_what_it_does_without(
    name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    options = ["-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    tests = ["--rootdir", str(ROOT), str(ROOT / "tests" / name)]
    assert " passed" in run(["-m", "pytest", *options, *tests], environment, tmp_path)
