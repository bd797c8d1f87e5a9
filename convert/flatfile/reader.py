"""The flat file: a safetensors file that holds a whole model, opened, validated and mapped.

Its metadata says what it is (metadata.py), `layout.stored_tensors` which tensors it has.
Whatever differs is refused here, so that the core never sees a contradiction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core

from ..errors import FlatFileError, quote
from ..files.gguf import is_gguf
from ..files.json_object import parse_json
from ..files.positional import PositionalFile
from ..files.safetensors_header import Header, TensorEntry, read_header
from .basis import BASIS_PREFIX, basis_shapes, found_basis, load
from .layout import (
    TEXT_FILES,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    VECTOR_MULTIPLE,
    Stored,
    linears,
    stored_tensors,
)
from .memory import MappedFile, copy_file
from .metadata import (
    ALIGNMENT,
    KEYS,
    KV_BOUND,
    MAX_REPORT_BYTES,
    MERGED,
    MLP_SIZE,
    NO_TOKENIZER,
    PADDING_PREFIX,
    PREFIX,
    QUANTISED,
    REPORT,
    VALUE_DIGESTS,
    VERSION,
)
from .spec import Spec, validate_spec
from .text_facts import MAX_BYTES, TextFacts, validate_facts

Valid = TypeVar("Valid")


class FlatFile:
    """A validated flat file; the tensors are views of one read-only mapping, or copy, of it.

    `spec`, `formats` and `tensors` are what the core's Model takes. `tensors` maps names to uint8
    arrays of their bytes. `text` says what texts are made by, and `files` maps the names of the
    source's files of which it was resolved (layout.TEXT_FILES) to their bytes; `tokenizer` and
    `tokenizer_config` are two of them, or None. `metadata` has the keys of KEYS, `entries` dtype
    and shape of every tensor. `report` is the JSON object in which its conversion recorded how good
    it is, or None. `kv_bound` is what no entry of a key or value exceeds, None where that is not
    known. `source_mlp_size` is how wide the source's MLP is inside, None where that is not known.
    `merged` has the name and the weight of each adapter and task vector that
    was merged into the source, by labels as "adapter 1". `quantised_before` lists the formats that
    values had lost precision to in the source; `no_tokenizer` says why there is none,
    where that is known, or is empty. `value_digests` are those of the source's tensors, see
    metadata.VALUE_DIGESTS, or is empty.
    The mapping, or the copy, lives as long as any of the arrays does. Nobody may write into a
    mapped file meanwhile: `check_unchanged` finds out.
    """

    def __init__(self, path: str | Path, *, copy: bool = False) -> None:
        """Open and validate the file at `path`; with `copy`, read it into memory of its own.

        Raises FileNotFoundError when there is none, and FlatFileError, with a sentence, when the
        file is damaged, truncated, foreign, older or newer than this reader or contradicts itself;
        MemoryError when there is no room for a copy.
        """
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"{path} does not exist: give a file written by convert")
        if self.path.is_dir():
            raise FlatFileError(f"{path} is a folder: convert it first, or load it as a checkpoint")
        if is_gguf(self.path):
            raise FlatFileError(
                f"{path} is a GGUF file: convert it first, or load it as a checkpoint"
            )
        self._mapped: MappedFile | None = None
        file = PositionalFile(self.path, FlatFileError)
        try:
            header = read_header(file, FlatFileError)
            self.metadata = self._read_metadata(header)
            self.report = self._read_report(header)
            self.kv_bound = self._read_kv_bound(header)
            self.merged = self._read_merged(header)
            self.quantised_before = header.metadata.get(PREFIX + QUANTISED, "")
            self.value_digests = self._read_value_digests(header)
            self.no_tokenizer = header.metadata.get(PREFIX + NO_TOKENIZER, "")
            self.spec, self.formats = self._read_model()
            self.text = self._read_text()
            self.entries = self._check_tensors(header)
            self.source_mlp_size = self._read_mlp_size(header)
            data = copy_file(file) if copy else self._map(file)
        finally:
            if self._mapped is None:
                file.close()
        self._data = data[header.data_start :]
        self.tensors = {
            name: data[entry.offset : entry.offset + entry.nbytes]
            for name, entry in self.entries.items()
        }
        self.files = {
            name: self.tensors.pop(name).tobytes() for name in TEXT_FILES if name in self.tensors
        }
        self._basis = {
            name: self.tensors.pop(name) for name in self.entries if name.startswith(BASIS_PREFIX)
        }
        self._loaded_basis: dict[str, NDArray[np.float32]] | None = None
        self.tokenizer = self.files.get(TOKENIZER_FILE)
        self.tokenizer_config = self.files.get(TOKENIZER_CONFIG_FILE)

    @property
    def source_digests(self) -> dict[str, str]:
        """SHA-256, in hexadecimal, of each file that was converted."""
        return _string_map(self.metadata["source_digests"], self._where("source_digests"))

    @property
    def basis(self) -> dict[str, NDArray[np.float32]]:
        """What it says of the basis of its source, by the names of basis.py: a copy, read-only.

        Raises FlatFileError where that is damaged.
        """
        if self._loaded_basis is None:
            shapes = basis_shapes(self.spec)
            found = {}
            for name, data in self._basis.items():
                try:
                    found[name] = load(data, self.entries[name].dtype, shapes[name])
                except ValueError as reason:
                    self._refuse(f"its {name} cannot be read ({reason})")
                found[name].flags.writeable = False
            self._loaded_basis = found
        return self._loaded_basis

    def verify(self) -> None:
        """Read all data and compare its digest; raise FlatFileError when it has changed.

        Opening does not do this: it takes as long as reading the file.
        """
        if hashlib.sha256(self._data.data).hexdigest() != self.metadata["data_sha256"]:
            raise FlatFileError(f"{self.path} has changed since it was written: convert again")

    def check_unchanged(self) -> None:
        """Raise FlatFileError when the mapped file was written to since it was opened.

        That takes a system call: made before any long work, it spares reading weights that are gone
        or others. A copy is safe from it all.
        """
        if self._mapped is not None:
            self._mapped.check()

    def _map(self, file: PositionalFile) -> NDArray[np.uint8]:
        self._mapped = MappedFile(file)
        return self._mapped.data

    def _read_value_digests(self, header: Header) -> dict[str, Any]:
        text = header.metadata.get(PREFIX + VALUE_DIGESTS)
        if text is None:
            return {}
        where = self._where(VALUE_DIGESTS)
        found: dict[str, Any] = parse_json(text, where, FlatFileError)
        tensors = found.get("tensors")
        digests = [found.get("values"), found.get("raw")]
        digests += tensors.values() if isinstance(tensors, dict) else [None]
        if not all(isinstance(digest, str) for digest in digests):
            raise FlatFileError(f"{where} are no digests: convert the source again")
        return found

    def _where(self, key: str) -> str:
        return f"{self.path}: its {key}"

    def _read_metadata(self, header: Header) -> dict[str, str]:
        version = header.metadata.get(PREFIX + "version")
        if version is None:
            raise FlatFileError(
                f"{self.path} is a safetensors file but no flat file: convert its folder first"
            )
        if not (version.isascii() and version.isdigit() and len(version) < 10):
            raise FlatFileError(f"{self.path} has no valid version: convert its source again")
        if int(version) > VERSION:
            raise FlatFileError(
                f"{self.path} was written by a newer pythia_rt (file format {version}, this one "
                f"reads {VERSION}): upgrade with pip install -U pythia_rt"
            )
        if int(version) < VERSION:
            raise FlatFileError(
                f"{self.path} was written by an older pythia_rt (file format {version}, this one "
                f"reads {VERSION}): convert its source again"
            )
        missing = [key for key in KEYS if PREFIX + key not in header.metadata]
        if missing:
            raise FlatFileError(f"{self.path} lacks {missing[0]}: convert its source again")
        return {key: header.metadata[PREFIX + key] for key in KEYS}

    def _read_report(self, header: Header) -> dict[str, Any] | None:
        text = header.metadata.get(PREFIX + REPORT)
        if text is None:
            return None
        if len(text) > MAX_REPORT_BYTES:
            raise FlatFileError(
                f"{self._where(REPORT)} is longer than any real one: convert its source again"
            )
        return parse_json(text, self._where(REPORT), FlatFileError)

    def _read_kv_bound(self, header: Header) -> float | None:
        text = header.metadata.get(PREFIX + KV_BOUND)
        if text is None:
            return None
        try:
            bound = float(text)
            if not bound >= 0:
                raise ValueError(text)
        except ValueError:
            raise FlatFileError(
                f"{self._where(KV_BOUND)} is no size: convert its source again"
            ) from None
        return bound

    def _read_merged(self, header: Header) -> dict[str, tuple[str, float]]:
        text = header.metadata.get(PREFIX + MERGED, "{}")
        found = {}
        for label, item in parse_json(text, self._where(MERGED), FlatFileError).items():
            name, weight = (item.get("name"), item.get("weight")) if type(item) is dict else (0, 0)
            if not isinstance(name, str) or not isinstance(weight, (int, float)):
                raise FlatFileError(
                    f"{self._where(MERGED)} is no list of adapters: convert its source again"
                )
            found[label] = (name, float(weight))
        return found

    def _read_mlp_size(self, header: Header) -> int | None:
        text = header.metadata.get(PREFIX + MLP_SIZE)
        most = self.spec["mlp_size"]
        if self.spec["mlp"] != "gated":
            return most
        if text is None:
            return None
        is_number = text.isascii() and text.isdigit() and len(text) < 20
        if not is_number or not most - VECTOR_MULTIPLE < int(text) <= most:
            raise FlatFileError(
                f"{self._where(MLP_SIZE)} is no size of this model: convert its source again"
            )
        return int(text)

    def _read_model(self) -> tuple[Spec, dict[str, str]]:
        spec = self._validated("spec", validate_spec)
        formats = _string_map(self.metadata["formats"], self._where("formats"))
        _string_map(self.metadata["source_digests"], self._where("source_digests"))
        unknown = set(formats.values()) - set(_core.format_names())
        if unknown:
            raise FlatFileError(
                f"{self.path} has weights in {quote(min(unknown))}, unknown to this version: "
                "upgrade with pip install -U pythia_rt"
            )
        return spec, formats

    def _read_text(self) -> TextFacts:
        # With room for what later versions add.
        return self._validated("text", validate_facts, longest=2 * MAX_BYTES)

    def _validated(
        self, key: str, validate: Callable[[Any], Valid], longest: int | None = None
    ) -> Valid:
        """Return what `validate` makes of the JSON under `key` of the metadata."""
        where, text = self._where(key), self.metadata[key]
        try:
            if longest is not None and len(text) > longest:
                raise ValueError("it is longer than any real one")
            return validate(parse_json(text, where, FlatFileError))
        except FlatFileError:
            raise
        except ValueError as reason:
            raise FlatFileError(
                f"{where} is invalid ({reason}): convert its source again"
            ) from None

    def _check_tensors(self, header: Header) -> dict[str, TensorEntry]:
        """Return the tensors of `header` without padding, when they are what the spec implies."""
        entries = {}
        for name, entry in header.tensors.items():
            if not name.startswith(PADDING_PREFIX):
                entries[name] = entry
                if entry.offset % ALIGNMENT:
                    self._refuse(f"tensor {quote(name)} is not aligned to {ALIGNMENT} bytes")
            elif entry.nbytes >= ALIGNMENT:
                self._refuse(f"{quote(name)} is longer than any padding")
        # Bounds the table below: a file cannot make us build one much longer than its own.
        if self.spec["n_layers"] > len(entries):
            self._refuse(f"it has too few tensors for {self.spec['n_layers']} layers")
        names = [matrix.name for matrix in linears(self.spec)]
        if set(names) != set(self.formats):
            self._refuse("its formats are not those of its matrices")
        files = {name: entries[name].nbytes for name in TEXT_FILES if name in entries}
        basis = found_basis(
            self.spec, {name: Stored(entry.dtype, entry.shape) for name, entry in entries.items()}
        )
        try:
            expected = stored_tensors(self.spec, self.formats, basis, files)
        except ValueError as error:  # sizes that fit each other, of matrices larger than any
            self._refuse(str(error))
        for name in [*expected, *entries]:
            if name not in entries:
                self._refuse(f"tensor {quote(name)} is missing")
            if name not in expected:
                self._refuse(f"tensor {quote(name)} does not belong there")
            entry, (dtype, shape) = entries[name], expected[name]
            if (entry.dtype, entry.shape) != (dtype, shape):
                self._refuse(
                    f"tensor {quote(name)} is {entry.dtype} {list(entry.shape)} instead of "
                    f"{dtype} {list(shape)}"
                )
        return entries

    def _refuse(self, what: str) -> None:
        raise FlatFileError(f"{self.path} contradicts itself, {what}: convert its source again")


def _string_map(text: str, where: str) -> dict[str, str]:
    value: dict[str, Any] = parse_json(text, where, FlatFileError)
    if not all(isinstance(item, str) for item in value.values()):
        raise FlatFileError(f"{where} are not a map of strings: convert the source again")
    return value
