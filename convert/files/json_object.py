"""JSON objects, in files and in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .positional import PositionalFile

MAX_JSON_BYTES = 64 << 20


def read_json(path: Path, error: type[ValueError]) -> dict[str, Any]:
    """Return the JSON object in the file at `path`.

    Raises `error` with a sentence when it is missing, empty, damaged, too large or not an object.
    """
    if not path.exists():
        raise error(f"{path} is missing: give a folder in Hugging Face layout")
    file = PositionalFile(path, error)
    try:
        if file.size > MAX_JSON_BYTES:
            raise error(f"{path} has {file.size} bytes, more than any real one: fetch it again")
        return parse_json(file.read(0, file.size), str(path), error)
    finally:
        file.close()


def parse_json(text: bytes | str, where: str, error: type[ValueError]) -> dict[str, Any]:
    """Return the JSON object in `text`; raise `error`, with a sentence, when it is none."""
    try:
        value = json.loads(text if isinstance(text, str) else text.decode("utf-8"))
    except (ValueError, RecursionError):
        raise error(f"{where} is not valid JSON: fetch it again") from None
    if not isinstance(value, dict):
        raise error(f"{where} is not a JSON object: fetch it again")
    return value
