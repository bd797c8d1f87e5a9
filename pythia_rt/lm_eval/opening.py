"""The model that the harness's model_args name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pythia_rt.model import Model

DEFAULT_FORMAT = "q8"


def open_model(
    pretrained: str | os.PathLike[str],
    *,
    revision: str | None,
    step: int | None,
    format: str | None,
    **options: Any,
) -> Model:
    """A hub id, a folder, a GGUF file or a flat file; "demo" is the bundled model.

    `step` is that of a training, at the revision or in the folder step{N}. `options` are those of
    Model.from_pretrained, None for their defaults. Raises ValueError for what has no effect, and
    what loading raises.
    """
    from pythia_rt.convert.files.gguf import is_gguf

    if step is not None and revision is not None:
        raise ValueError("step and revision both name a revision: leave one of them out")
    cache_dir = options.pop("cache_dir", None)
    path = Path(pretrained).expanduser()
    if path.is_file() and not is_gguf(path):
        _refuse(
            f"{path} is a flat file",
            revision=revision,
            step=step,
            format=format,
            cache_dir=cache_dir,
        )
        return Model.load(path, **options)
    if os.fspath(pretrained) == "demo" and not path.exists():
        _refuse("the demo model is bundled", revision=revision, step=step)
        return Model.demo(format=format or DEFAULT_FORMAT, cache_dir=cache_dir, **options)
    return Model.from_pretrained(
        pretrained,
        revision=revision,
        step=step,
        format=format or DEFAULT_FORMAT,
        cache_dir=cache_dir,
        **options,
    )


def _refuse(why: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"{name} has no effect here, since {why}: leave it out")
