"""Folders of tokenizers, each odd in another way, as checkpoints have them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers

from pythia_rt.convert.flatfile.text_facts import TextFacts
from pythia_rt.convert.text.text_files import Text, read_text_files, resolve_text
from pythia_rt.convert.text.tokenizer import Vocabulary
from pythia_rt.model import DEMO_FOLDER
from pythia_rt.tokenizer import Tokenizer

Change = Callable[[dict[str, Any]], Any]


def edit(path: Path, change: Change) -> None:
    """Change the JSON object in a file."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def make_folder(
    folder: Path,
    tokenizer_config: Change | None = None,
    tokenizer: Change | None = None,
    config: Change | None = None,
    files: dict[str, Any] | None = None,
) -> Path:
    """Return a copy of the demo's folder without weights, changed; `files` are written as JSON."""
    folder.mkdir(parents=True)
    changes = {
        "tokenizer_config.json": tokenizer_config,
        "tokenizer.json": tokenizer,
        "config.json": config,
    }
    for name, change in changes.items():
        shutil.copy(DEMO_FOLDER / name, folder)
        if change is not None:
            edit(folder / name, change)
    for name, content in (files or {}).items():
        (folder / name).write_text(json.dumps(content))
    return folder


def as_sources(folder: Path) -> None:
    """Put vocab.json and merges.txt, as GPT-2 has them, in place of a folder's tokenizer.json."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    (folder / "tokenizer.json").unlink()


def token(content: str, **flags: bool) -> dict[str, Any]:
    """Return an added token as added_tokens_decoder has it: special unless `flags` differ."""
    plain = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    return {"content": content, **plain, "special": True, **flags}


def template(single: str, **ids: int) -> Change:
    """Return a change that puts tokens of these ids, "<|endoftext|>" by default, around a text."""
    special = [("<|endoftext|>", 0), *ids.items()]
    part = tokenizers.processors.TemplateProcessing(single=single, special_tokens=special)
    section = json.loads(part.__getstate__())
    return lambda data: data.update(post_processor=section)


def resolve_all(folder: Path) -> Text:
    """Return what the converter makes of a folder, with the files that it keeps."""
    return resolve_text(read_text_files(folder), json.loads((folder / "config.json").read_text()))


def resolve(folder: Path) -> tuple[TextFacts, Vocabulary | None]:
    """Return what the converter makes of a folder."""
    return resolve_all(folder)[1:]


def ours(folder: Path) -> Tokenizer:
    """Return our tokenizer of a folder."""
    text = resolve_all(folder)
    return Tokenizer(text.files["tokenizer.json"], text.facts)
