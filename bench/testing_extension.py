"""Finds `_testing`, the extension with every kernel of every instruction set, in no wheel."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

from bench import ROOT

VARIABLE = "PYTHIA_RT_TESTING_DIR"
_BUILT_BY_TESTS = ROOT / "build" / "native"


def load() -> ModuleType:
    """Load it from the folder that the variable names, else from where ./scripts/test builds it.

    Raises ImportError with one sentence if it is not there.
    """
    folder = Path(os.environ.get(VARIABLE) or _BUILT_BY_TESTS)
    built = sorted(folder.glob("_testing*.so"))
    if not built:
        raise ImportError(
            f"there is no test extension _testing*.so in {folder}: build it with ./scripts/test, "
            f"or name its folder in {VARIABLE}"
        )
    spec = importlib.util.spec_from_file_location("_testing", built[0])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
