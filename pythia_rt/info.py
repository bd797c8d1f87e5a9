"""What a flat file holds, as facts for a program and as lines for a person."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pythia_rt import _core
from pythia_rt.convert.errors import quote
from pythia_rt.convert.flatfile import FlatFile
from pythia_rt.convert.flatfile.layout import linears, tables, vectors
from pythia_rt.evaluation.reporter import stored_report
from pythia_rt.evaluation.result import Evaluation
from pythia_rt.evaluation.table import lines as report_lines
from pythia_rt.suggested import suggested_sampling
from pythia_rt.tokenizer import Tokenizer


def describe(path: Path, *, verify: bool = False) -> dict[str, Any]:
    """Facts about the flat file at `path`, all JSON values.

    With `verify` all data is read and compared with its SHA-256. Raises FlatFileError for a file
    that is damaged, and OSError for one that cannot be read.
    """
    file = FlatFile(path)
    if verify:
        file.verify()
    # Only this asks what a spec came from; loading and running a file do without.
    from pythia_rt.convert.architectures import title
    from pythia_rt.insides.basis import Basis

    metadata = file.metadata
    report = stored_report(file)
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "file_format": int(metadata["version"]),
        "producer": metadata["producer"],
        "source": metadata["source"],
        "revision": metadata["revision"],
        "quantised_before": file.quantised_before,
        "merged": {
            label: {"name": name, "weight": weight} for label, (name, weight) in file.merged.items()
        },
        "source_digests": file.source_digests,
        "value_digests": file.value_digests,
        "data_sha256": metadata["data_sha256"],
        "verified": verify,
        "recipe": metadata["recipe"],
        "family": title(file.spec["architecture"]),
        "spec": file.spec,
        "formats": file.formats,
        "basis": Basis(file).is_known,
        "parameters": sum(_parameters(file).values()),
        "bits_per_weight": _bits_per_weight(file),
        "tokenizer": file.tokenizer is not None,
        "no_tokenizer": file.no_tokenizer,
        "end_tokens": _tokens(file, file.spec["eos_ids"]),
        "prefix_tokens": _tokens(file, file.text["prefix_ids"]),
        "suffix_tokens": _tokens(file, file.text["suffix_ids"]),
        "suggested_sampling": _suggested(file),
        "chat_templates": sorted(file.text["chat_templates"]),
        "isa": _core.selected_isa(),
        "report": None if report is None else report.to_dict(),
    }


def lines(facts: dict[str, Any]) -> Iterator[str]:
    """The facts of `describe`, one to a line."""
    origin = _plain(facts["source"])
    origin += f" at {_plain(facts['revision'])}" if facts["revision"] else ""
    producer = _plain(facts["producer"])
    yield f"{facts['file']}: {facts['bytes'] / 1e6:.1f} MB, {facts['parameters']:,} parameters"
    yield f"source      {origin}, by {producer} (file format {facts['file_format']})"
    if facts["quantised_before"]:
        before = _plain(facts["quantised_before"])
        yield f"            whose values were quantised before, to {before}"
    for label, item in facts["merged"].items():
        yield f"merged      {_plain(label)}: {_plain(item['name'])}, weight {item['weight']:g}"
    yield f"family      {facts['family']}"
    why = f": {_plain(facts['no_tokenizer'])}" if facts["no_tokenizer"] else ""
    yield f"tokenizer   {'yes' if facts['tokenizer'] else f'no{why}'}"
    yield f"end tokens  {_shown(facts['end_tokens']) or 'none: texts end at their length'}"
    for what in ("prefix", "suffix"):
        if facts[f"{what}_tokens"]:
            yield f"{what:<12}{_shown(facts[f'{what}_tokens'])}, with every text"
    if facts["suggested_sampling"]:
        options = (f"{name}={value}" for name, value in facts["suggested_sampling"].items())
        yield f"suggested   {', '.join(options)}"
    if facts["chat_templates"]:
        yield f"chat        {', '.join(map(quote, facts['chat_templates']))}"
    yield f"runs on     {facts['isa']}"
    yield f"recipe      {_plain(facts['recipe'])}"
    if not facts["basis"]:
        yield "basis       not recorded: convert again to see values as the checkpoint has them"
    yield "bits per weight"
    for group, bits in facts["bits_per_weight"].items():
        used = sorted({f for name, f in facts["formats"].items() if _group(name) == group})
        yield f"  {group:<10}{bits:6.2f}  {', '.join(used)}".rstrip()
    yield "spec"
    width = max(16, *(len(name) + 2 for name in facts["spec"]))
    for name, value in facts["spec"].items():
        yield f"  {name:<{width}}{value}"
    if facts["report"] is not None:
        yield "report of its conversion"
        for line in report_lines(Evaluation.from_dict(facts["report"])):
            yield f"  {line}".rstrip()
    yield "SHA-256"
    yield f"  {facts['data_sha256']}  data{' (verified)' if facts['verified'] else ''}"
    for name, digest in facts["source_digests"].items():
        yield f"  {_plain(digest)}  {_plain(name)}"
    if facts["value_digests"]:
        yield f"  {_plain(facts['value_digests']['values'])}  values of the source's tensors"


def _plain(text: str) -> str:
    """Text of a file's header as it is, or in quotes where a terminal should not see it so."""
    return text if text.isprintable() and len(text) <= 400 else quote(text)


def _tokens(file: FlatFile, ids: list[int]) -> list[dict[str, Any]]:
    """Each of `ids` with its spelling, None where the tokenizer has none."""
    if not ids or file.tokenizer is None:
        return [{"id": token, "token": None} for token in ids]
    tokenizer = Tokenizer(file.tokenizer, file.text)
    return [{"id": token, "token": tokenizer.name(token) or None} for token in ids]


def _shown(tokens: list[dict[str, Any]]) -> str:
    return ", ".join(
        str(token["id"]) if token["token"] is None else f"{quote(token['token'])} ({token['id']})"
        for token in tokens
    )


def _suggested(file: FlatFile) -> dict[str, Any]:
    """The suggested values that our options take."""
    sampling = suggested_sampling(file.text["sampling"])
    return {
        name: getattr(sampling, name)
        for name, value in file.text["sampling"].items()
        if getattr(sampling, name) == value
    }


def _bits_per_weight(file: FlatFile) -> dict[str, float]:
    """Stored bits, padding included, per weight of the model.

    "vectors" are norms, biases and what was learned of positions; tables that a config says are no
    weights.
    """
    weights = _parameters(file)
    stored = dict.fromkeys(weights, 0)
    computed = {table.name for table in tables(file.spec) if table.shared}
    for name in file.tensors.keys() - computed:
        is_matrix = (
            name.endswith((".weight", ".scales", ".units"))
            and name.rpartition(".")[0] in file.formats
        )
        stored[_group(name) if is_matrix else "vectors"] += file.entries[name].nbytes
    bits = {group: 8 * stored[group] / weights[group] for group in weights}
    bits["total"] = 8 * sum(stored.values()) / sum(weights.values())
    return {group: round(value, 4) for group, value in bits.items()}


def _parameters(file: FlatFile) -> dict[str, int]:
    """How many weights each group of tensors has; a tied model has no group "head"."""
    count: dict[str, int] = {}
    for matrix in linears(file.spec):
        group = _group(matrix.name)
        count[group] = count.get(group, 0) + matrix.rows * matrix.columns
    learned = sum(t.rows * t.columns for t in tables(file.spec) if not t.shared)
    return count | {"vectors": sum(vectors(file.spec).values()) + learned}


def _group(name: str) -> str:
    return name.partition(".")[0]
