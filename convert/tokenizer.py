"""What the converter must know of a tokenizer: how many ids it has. The rest is just stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .checkpoint import parse_json
from .errors import CheckpointError
from .files import PositionalFile
from .layout import TOKENIZER_FILES

MAX_TOKENIZER_BYTES = 64 << 20


def read_tokenizer_files(folder: Path) -> dict[str, bytes]:
    """Return {file name: bytes} of the tokenizer files in `folder`; those missing are left out.

    Raises CheckpointError when one is damaged: it would be found out too late.
    """
    files = {}
    for name in TOKENIZER_FILES:
        path = folder / name
        if path.exists():
            file = PositionalFile(path, CheckpointError)
            try:
                if file.size > MAX_TOKENIZER_BYTES:
                    raise CheckpointError(f"{path} is too large for a tokenizer: fetch it again")
                files[name] = file.read(0, file.size)
            finally:
                file.close()
            parse_json(files[name], str(path), CheckpointError)
    return files


def count_ids(tokenizer: bytes, where: str) -> int:
    """Return one more than the largest id in the text of a tokenizer.json.

    Added tokens count. Raises CheckpointError when the vocabulary is missing or damaged.
    """
    data = parse_json(tokenizer, where, CheckpointError)
    model = data.get("model")
    vocabulary: Any = model.get("vocab") if isinstance(model, dict) else None
    added = data.get("added_tokens", [])
    # A dictionary {token: id} in BPE and WordPiece, a list by id in Unigram.
    ids: list[Any] = []
    if isinstance(vocabulary, dict):
        ids += vocabulary.values()
    elif isinstance(vocabulary, list):
        ids += range(len(vocabulary))
    if isinstance(added, list):
        ids += [token.get("id") if isinstance(token, dict) else None for token in added]
    if not ids or not all(type(i) is int and 0 <= i < 1 << 24 for i in ids):
        raise CheckpointError(f"{where} has a damaged vocabulary: fetch it again")
    return int(max(ids)) + 1
