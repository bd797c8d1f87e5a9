"""What a metric is measured on: a text, or a file."""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt.convert.errors import shown
from pythia_rt.convert.files.text import check_text_file, decode_text
from pythia_rt.model import Model

Ids = NDArray[np.int32]
NPY = b"\x93NUMPY"


@dataclass(frozen=True, eq=False)
class Given:
    """What a metric is measured on: a file's bytes, or those of a str, with a name for them."""

    name: str
    data: bytes

    @classmethod
    def of(cls, source: Given | str | os.PathLike[str]) -> Given:
        """A str is the text itself, a path object a file. Raises OSError, ValueError if empty."""
        if isinstance(source, Given):
            return source
        if isinstance(source, str):
            try:
                name, data = "text", source.encode()
            except UnicodeEncodeError:
                raise ValueError("a text holds a lone surrogate, which is no text") from None
        elif isinstance(source, os.PathLike):
            path = Path(source).expanduser()
            check_text_file(path)
            name, data = path.name, path.read_bytes()
        else:
            raise ValueError(f"a text is a str, or a path object for a file, not {shown(source)}")
        if not data:
            raise ValueError(f"{name} is empty: there is nothing to measure on")
        return cls(name, data)

    def about(self) -> dict[str, str]:
        """What a result remembers of it."""
        return {"name": self.name, "sha256": hashlib.sha256(self.data).hexdigest()}

    def check(self) -> None:
        """Raise ValueError for what is neither text nor a .npy of token ids."""
        if (found := self.array()) is None:
            self.text()
        elif found.dtype.kind not in "iu" or not found.size:
            raise ValueError(
                f"{self.name} has {found.dtype} of shape {found.shape}: token ids are whole numbers"
            )

    def text(self) -> str:
        """It as text. Raises ValueError if it is not UTF-8."""
        return decode_text(self.data, self.name)

    def array(self) -> NDArray[Any] | None:
        """It as an array, if it is a .npy. Raises ValueError for one that is damaged, and for one
        that would run code."""
        if not self.data.startswith(NPY):
            return None
        try:
            found: NDArray[Any] = np.load(io.BytesIO(self.data), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{self.name} is no .npy of token ids: {error}") from None
        return found

    def ids(self, model: Model) -> Ids:
        """Token ids, int32 [n]: of the text, or of a .npy with ids of any shape."""
        found = self.array()
        if found is None:
            return model._ids(self.text())
        return model._ids(found.reshape(-1))

    def lines(self, *needed: str) -> list[dict[str, Any]]:
        """The JSON objects of its lines, each with the keys `needed`. Raises ValueError."""
        found = []
        for number, line in enumerate(self.text().splitlines(), 1):
            if not line.strip():
                continue
            try:
                item = json.loads(line)
            except ValueError:
                item = None
            if not isinstance(item, dict) or any(key not in item for key in needed):
                raise ValueError(
                    f"line {number} of {self.name} is no JSON object with {' and '.join(needed)}"
                )
            found.append(item)
        if not found:
            raise ValueError(f"{self.name} has no lines: there is nothing to measure on")
        return found


class GivenField:
    """A field of a metric's class (`base.metric`): given as a text or a file, read as a `Given`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, owner: object, kind: type) -> Given:
        if owner is None:
            raise AttributeError(self._name)  # so dataclasses see that there is no default
        found: Given = vars(owner)[self._name]
        return found

    def __set__(self, owner: object, source: Given | str | os.PathLike[str]) -> None:
        vars(owner)[self._name] = Given.of(source)
