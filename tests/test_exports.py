"""What the extensions show to the rest of the process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pythia_rt import _core

BUILT = Path(os.environ.get("PYTHIA_RT_TESTING_DIR") or "nowhere")


@pytest.mark.skipif(sys.platform != "linux", reason="only ELF's linkers are told what to export")
@pytest.mark.parametrize("name", ["_core", "_testing", "_emulated"])
def test_an_extension_exports_the_function_that_python_calls_alone(name: str) -> None:
    """The C++ library in one that was linked with it statically would be mixed with PyTorch's.

    Seen on the first CUDA device: streams crashed where torch had been imported.
    """
    nm = shutil.which("nm")
    paths = [Path(_core.__file__)] if name == "_core" else sorted(BUILT.glob(f"{name}*.so"))
    if nm is None or not paths:
        pytest.skip("nm or the extension is not there")
    command = [nm, "--dynamic", "--defined-only", "--format=posix", paths[0]]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert [line.split()[0] for line in listed.splitlines()] == [f"PyInit_{name}"]
