"""Prints what pyproject.toml asks for, a line each: `python scripts/requirements.py EXTRA...`.

Its build requirements, its dependencies and those of the extras that are named. It runs before
anything is installed, so it needs nothing beside Python 3.10 and pip.
"""

import sys
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent


def requirements(extras: list[str]) -> list[str]:
    """In the order of the file. Raises KeyError for an extra that is not there."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = content["project"]
    listed: list[str] = content["build-system"]["requires"] + project["dependencies"]
    for extra in extras:
        listed += project["optional-dependencies"][extra]
    return listed


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
