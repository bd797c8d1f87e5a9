"""The committed stub of the compiled module is the one its docstrings generate."""

import difflib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_committed_stub_is_current(tmp_path: Path) -> None:
    generated = tmp_path / "_core.pyi"
    command = [sys.executable, str(ROOT / "scripts" / "stub.py"), "--output", str(generated)]
    subprocess.run(command, check=True, cwd=tmp_path)
    committed = ROOT / "pythia_rt" / "_core.pyi"
    drift = list(
        difflib.unified_diff(
            committed.read_text().splitlines(),
            generated.read_text().splitlines(),
            "committed",
            "generated",
            lineterm="",
        )
    )
    assert not drift, "\n".join(
        ["pythia_rt/_core.pyi is stale: run .venv/bin/python scripts/stub.py", *drift]
    )
