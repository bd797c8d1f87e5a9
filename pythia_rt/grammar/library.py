"""llguidance, imported when a grammar is first used, and what it says of errors."""

from __future__ import annotations

import re
from types import ModuleType

_WHERE = re.compile(r"^(?:at \d+\(\d+\): )?failed to compile JSON schema: ")
_REMOTE = re.compile(r"Resource '(.*?)' is not present in a registry", re.S)
_LONGEST = 300


def llguidance() -> ModuleType:
    """The library. Raises ImportError where it is not installed."""
    try:
        import llguidance
    except ImportError as error:
        raise ImportError(
            f"a grammar, a JSON schema or a regex needs llguidance ({error}): "
            "pip install 'pythia_rt[grammar]'"
        ) from None
    module: ModuleType = llguidance
    return module


def reason(message: str) -> str:
    """What is wrong, in a line, of a message that goes on with pictures and dumps of state."""
    lines = [line.strip() for line in _WHERE.sub("", message).splitlines() if line.strip()]
    said = lines[0] if lines else "it says no reason"
    # Of a regex the line that tells comes after a picture of where.
    said += "".join(f" {line}" for line in lines[1:] if line.startswith("error: "))
    remote = _REMOTE.match(said)
    if remote:
        said = f"it refers to {remote[1]!r}, which is not in it, and nothing is ever fetched"
    return said if len(said) <= _LONGEST else said[: _LONGEST - 3] + "..."
