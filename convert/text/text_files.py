"""The small files of a checkpoint that say what its text is made by, read and checked."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError
from ..files.json_object import parse_json
from ..files.lfs import refuse_pointer
from ..files.positional import PositionalFile
from ..files.text import decode_utf8
from ..flatfile.layout import (
    ADDED_TOKENS_FILE,
    CHAT_TEMPLATE_FILE,
    CHAT_TEMPLATE_FOLDER,
    GENERATION_FILE,
    SPECIAL_TOKENS_FILE,
    TEXT_FILES,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    TOKENIZER_SOURCES,
)
from ..flatfile.spec import is_number
from ..flatfile.text_facts import MAX_BYTES, SAMPLING, TextFacts, no_facts, validate_facts
from .tokenizer import Vocabulary, resolve_tokenizer
from .tokenizer_sources import Built, build_tokenizer_file

MAX_TOKENIZER_BYTES = 64 << 20


def read_text_files(folder: Path) -> dict[str, bytes]:
    """Return {file name: bytes} of the TEXT_FILES in `folder`, and of more chat templates.

    Without a tokenizer.json, the TOKENIZER_SOURCES that there are come too. Raises CheckpointError
    when one is damaged: it would be found out too late. A damaged generation_config.json is left
    out with a warning, as transformers does.
    """
    files = {}
    has_tokenizer = (folder / TOKENIZER_FILE).exists()
    names = [*TEXT_FILES, *(() if has_tokenizer else TOKENIZER_SOURCES)]
    more = sorted((folder / CHAT_TEMPLATE_FOLDER).glob("*.jinja"))
    for name in [*names, *(f"{CHAT_TEMPLATE_FOLDER}/{path.name}" for path in more)]:
        path = folder / name
        if path.exists():
            file = PositionalFile(path, CheckpointError)
            try:
                if file.size > MAX_TOKENIZER_BYTES:
                    raise CheckpointError(f"{path} is too large for what it is: fetch it again")
                content = file.read(0, file.size)
            finally:
                file.close()
            if name == GENERATION_FILE:
                try:
                    parse_json(content, str(path), CheckpointError)
                except CheckpointError as reason:
                    warnings.warn(f"{reason}; until then it is left out", stacklevel=3)
                    continue
            elif name.endswith(".jinja"):
                decode_utf8(content, str(path), CheckpointError)
            elif name in TOKENIZER_SOURCES:
                refuse_pointer(content, str(path), CheckpointError)
            else:
                parse_json(content, str(path), CheckpointError)
            files[name] = content
    return files


class Text(NamedTuple):
    """What the files say."""

    files: dict[str, bytes]  # of TEXT_FILES, a tokenizer.json that was built among them
    facts: TextFacts
    vocabulary: Vocabulary | None  # how many ids the tokenizer has; None without one


def resolve_text(
    files: Mapping[str, bytes], config: Mapping[str, Any], built: Built | None = None
) -> Text:
    """Return what the files of `read_text_files` and config.json say.

    `built` is a tokenizer.json that was built of something else than files. Raises CheckpointError
    when one is damaged.
    """
    parsed = {
        name: parse_json(content, name, CheckpointError)
        for name, content in files.items()
        if name in TEXT_FILES and name.endswith(".json") and name != TOKENIZER_FILE
    }
    tokenizer_config = parsed.get(TOKENIZER_CONFIG_FILE, {})
    added_tokens = parsed.get(ADDED_TOKENS_FILE, {})
    facts, vocabulary = no_facts(), None
    kept = {name: content for name, content in files.items() if name in TEXT_FILES}
    if built is None and TOKENIZER_FILE not in files:
        built = build_tokenizer_file(
            files, tokenizer_config, added_tokens=added_tokens, config=config
        )
    if built is not None:
        kept = {TOKENIZER_FILE: built.content, **kept}
    if TOKENIZER_FILE in kept:
        facts, vocabulary = resolve_tokenizer(
            kept[TOKENIZER_FILE],
            tokenizer_config,
            special_tokens=parsed.get(SPECIAL_TOKENS_FILE, {}),
            added_tokens=added_tokens,
            config=config,
            built=built,
        )
    # As transformers does: without the file, an old config.json may hold these itself.
    facts["sampling"] = _sampling(parsed.get(GENERATION_FILE, config))
    facts["chat_templates"] = _chat_templates(tokenizer_config, files)
    try:
        return Text(kept, validate_facts(facts), vocabulary)
    except ValueError as reason:
        raise CheckpointError(
            f"what the tokenizer's files say cannot be kept, {reason}: fetch them again "
            f"(at most {MAX_BYTES >> 20} MB of added tokens and chat templates)"
        ) from None


def resolve_end_ids(files: Mapping[str, bytes], config: Mapping[str, Any]) -> list[int]:
    """Return the ids of the tokens that end a text, as transformers' `generate` takes them.

    A generation_config.json alone counts, where there is one: without an eos_token_id, no token
    ends the text. Else config.json's do. Raises CheckpointError when they are not token ids.
    """
    name, source = "config.json", config
    if GENERATION_FILE in files:
        name = GENERATION_FILE
        source = parse_json(files[name], name, CheckpointError)
    value = source.get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(is_number(i) and int(i) == i for i in ids):
        raise CheckpointError(
            f"{name} has no valid eos_token_id: set it to a token id or a list of them"
        )
    return list(dict.fromkeys(int(i) for i in ids))


def _sampling(config: Mapping[str, Any]) -> dict[str, float]:
    values = {name: config[name] for name in SAMPLING if is_number(config.get(name))}
    if config.get("do_sample") is False:
        values["temperature"] = 0
    return values


def _chat_templates(config: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, str]:
    """Files of their own come before what tokenizer_config.json says, as in transformers."""
    own = {}
    for name, content in files.items():
        if name.endswith(".jinja"):
            key = "default" if name == CHAT_TEMPLATE_FILE else Path(name).stem
            own[key] = decode_utf8(content, name, CheckpointError)
    if own:
        return own
    given = config.get("chat_template")
    if given is None:
        return {}
    if isinstance(given, str):
        return {"default": given}
    named = [
        (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        for entry in (given if isinstance(given, list) else [None])
    ]
    if not all(isinstance(name, str) and isinstance(text, str) for name, text in named):
        raise CheckpointError(f"{TOKENIZER_CONFIG_FILE} has no valid chat_template: fetch it again")
    return {str(name): str(text) for name, text in named}
