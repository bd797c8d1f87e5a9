"""The files whose quality is compared: a checkpoint in our recipes and in llama.cpp's formats."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.peers import llama
from pythia_rt.convert import FlatFile, convert
from pythia_rt.convert.flatfile.layout import TEXT_FILES

WITH_IMPORTANCE = "+imatrix"
CALIBRATED = "+calibrated"


def complete(checkpoint: Path, tokenizer: Path | None, temporary: Path) -> Path:
    """A folder that has the checkpoint's files and, where one is given, another's tokenizer."""
    if tokenizer is None:
        return checkpoint
    files = {path.name: path for path in checkpoint.iterdir() if path.is_file()}
    files |= {name: tokenizer / name for name in TEXT_FILES if (tokenizer / name).exists()}
    folder = temporary / checkpoint.name
    folder.mkdir()
    for name, path in files.items():
        (folder / name).symlink_to(path.resolve())
    return folder


def our_files(
    checkpoint: Path,
    temporary: Path,
    recipes: Iterable[str],
    more: Iterable[Path],
    *,
    calibrate: Path | None,
) -> dict[str, Path]:
    """{name: flat file}, the unquantised one first, those of `more` as they are.

    With a text to `calibrate` with, each recipe is there without and with it. Raises ValueError for
    files of another model, and what `convert` raises.
    """
    calibrations: dict[str, dict[str, Any]] = {"": {}}
    if calibrate is not None:
        if "calibrate" not in inspect.signature(convert).parameters:
            raise ValueError("this version's convert cannot calibrate: leave out --calibrate-text")
        calibrations[CALIBRATED] = {"calibrate": calibrate}
    files = {"f32": convert(checkpoint, temporary / "f32.safetensors", format="f32")}
    for recipe in recipes:
        for suffix, arguments in calibrations.items():
            path = temporary / f"{recipe}{suffix}.safetensors"
            files[f"{recipe}{suffix}"] = convert(checkpoint, path, format=recipe, **arguments)
    reference = FlatFile(files["f32"]).spec
    for path in more:
        if FlatFile(path).spec["vocab_size"] != reference["vocab_size"]:
            raise ValueError(f"{path} is of another model: its vocabulary has another size")
        files[path.name] = path
    return files


def their_files(
    checkpoint: Path,
    temporary: Path,
    forms: Sequence[str],
    calibration: NDArray[np.int32] | None,
    window: int,
    threads: int,
) -> dict[str, Path]:
    """{name: GGUF file}, the unquantised one first; none where llama.cpp is not installed.

    `forms` are llama.cpp's, with "+imatrix" those that `calibration` weights.
    """
    weighted = [name for name in forms if name.endswith(WITH_IMPORTANCE)]
    if forms and (missing := llama.missing("llama_cpp", "gguf")):
        print(f"llama.cpp is skipped: not installed: {', '.join(missing)}")
        return {}
    if weighted and (calibration is None or llama.missing("torch", "transformers")):
        print(f"{' '.join(weighted)} is skipped: it needs --imatrix-text, torch and transformers")
        forms, weighted = [name for name in forms if name not in weighted], []
    if not forms:
        return {}
    from bench.peers.gguf_file import write_gguf

    files = {"f32": temporary / "f32.gguf"}
    write_gguf(checkpoint, files["f32"])
    importance = temporary / "importance.npz"
    if weighted and calibration is not None:
        from bench.studies.importance import write_importance

        write_importance(checkpoint, importance, calibration, window, threads)
    for name in forms:
        form = name.removesuffix(WITH_IMPORTANCE)
        files[name] = temporary / f"{name}.gguf"
        llama.quantise(files["f32"], files[name], form, importance if name in weighted else None)
    return files
