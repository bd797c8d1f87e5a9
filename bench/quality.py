"""How much quantising costs, beside llama.cpp: python -m bench.quality CHECKPOINT --text FILE.

The same tokens in the same disjoint windows go through every file. Each runtime's files are
compared with its own unquantised one: llama.cpp computes GPT-NeoX with the tanh form of GELU, so
its distance to another runtime would not be that of the quantising.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import measure
from bench.peers import llama
from bench.studies.lockstep import Logits, PythiaRt, tally_all
from bench.studies.quality_files import WITH_IMPORTANCE, complete, our_files, their_files
from bench.studies.quality_table import Row, table
from bench.studies.weight_bits import WeightBits, flat_tensors, gguf_tensors, weight_bits
from pythia_rt import _core
from pythia_rt.convert import CheckpointError, FlatFile, FlatFileError
from pythia_rt.evaluation.result import Side
from pythia_rt.evaluation.summary import compare, perplexity
from pythia_rt.evaluation.text import read_tokens
from pythia_rt.evaluation.windows import check_max_tokens, choose
from pythia_rt.tokenizer import Tokenizer

Tokens = NDArray[np.int32]
PEERS = ["Q8_0", "Q4_0", "Q4_K_S", "Q4_K_M", f"Q4_K_M{WITH_IMPORTANCE}"]
UNIT = "Q4_K_M"  # whose divergence the others are given in multiples of


@dataclass(frozen=True)
class Runtime:
    """How to load a file of one runtime, and what its weights take."""

    name: str
    load: Callable[[Path, int, int], Logits]
    bits: Callable[[Path], WeightBits]


OURS = Runtime("pythia_rt", PythiaRt, lambda path: weight_bits(flat_tensors(FlatFile(path))))
THEIRS = Runtime("llama.cpp", llama.LlamaCpp, lambda path: weight_bits(gguf_tensors(path)))


def main() -> None:
    """Parse the command line, measure, print."""
    options = _parse()
    try:
        with tempfile.TemporaryDirectory(prefix="pythia_rt-quality-") as temporary:
            rows = _run(options, Path(temporary))
    except (CheckpointError, FlatFileError, OSError, RuntimeError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    for line in table(rows, UNIT, markdown=options.markdown):
        print(line)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a folder in Hugging Face layout")
    parser.add_argument("--tokenizer", type=Path, help="a folder with the tokenizer it lacks")
    parser.add_argument("--text", type=Path, required=True, help="a UTF-8 file to measure on")
    parser.add_argument("--window", type=int, default=256, help="tokens of a window")
    parser.add_argument("--max-tokens", type=int, help="of the text; default: all")
    parser.add_argument("--recipes", nargs="*", default=["q8", "q4"], help="formats of `convert`")
    parser.add_argument("--files", nargs="*", type=Path, default=[], help="more flat files of it")
    parser.add_argument("--calibrate-text", type=Path, help="each recipe also calibrated with it")
    parser.add_argument(
        "--peers", nargs="*", default=PEERS, help="llama.cpp's formats; none after it: none"
    )
    parser.add_argument(
        "--imatrix-text", type=Path, help=f"for {WITH_IMPORTANCE}; default: --calibrate-text"
    )
    parser.add_argument("--imatrix-tokens", type=int, default=50_000, help="of that text")
    parser.add_argument("--threads", type=int, default=_core.default_threads())
    parser.add_argument(
        "--json", type=measure.lines_file, help="JSON lines to append the figures to"
    )
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    return parser.parse_args()


def _run(options: argparse.Namespace, temporary: Path) -> list[Row]:
    checkpoint = complete(options.checkpoint, options.tokenizer, temporary)
    ours = our_files(
        checkpoint, temporary, options.recipes, options.files, calibrate=options.calibrate_text
    )
    tokenizer, spec = _tokenizer(ours["f32"])
    choose(options.window, None, spec["max_positions"])
    check_max_tokens(options.max_tokens)

    def read(path: Path, max_tokens: int | None) -> Tokens:
        return read_tokens(path, tokenizer, spec["vocab_size"], max_tokens)

    tokens = read(options.text, options.max_tokens)
    text = options.imatrix_text or options.calibrate_text
    calibration = None if text is None else read(text, options.imatrix_tokens)
    theirs = their_files(
        checkpoint, temporary, options.peers, calibration, options.window, options.threads
    )
    peer = f", llama-cpp-python {llama.installed_version()}" if theirs else ""
    print(
        f"{options.checkpoint.name} on {options.text.name}: {len(tokens):,} tokens in windows of "
        f"{options.window}, {_core.selected_isa()}{peer}",
        flush=True,
    )
    rows = []
    for runtime, files in ((OURS, ours), (THEIRS, theirs)):
        for row in _measure(runtime, files, tokens, options):
            rows.append(row)
            measure.append_line(options.json, _facts(options, tokens) | row.to_dict())
    return rows


def _tokenizer(path: Path) -> tuple[Tokenizer, dict[str, Any]]:
    file = FlatFile(path)
    if file.tokenizer is None:
        raise ValueError("the checkpoint has no tokenizer: name a folder that has with --tokenizer")
    return Tokenizer(file.tokenizer), dict(file.spec)


def _measure(
    runtime: Runtime, files: Mapping[str, Path], tokens: Tokens, options: argparse.Namespace
) -> Iterator[Row]:
    """Measure every file against the first."""
    if len(files) < 2:
        return
    models = {
        name: runtime.load(path, options.window, options.threads) for name, path in files.items()
    }
    first = next(iter(models))
    tallies = tally_all(models.pop(first), models, tokens, options.window)
    side = Side(options.checkpoint.name, first, "", _core.selected_isa(), "f32")
    found = {name: compare(tally, side, None) for name, tally in tallies.items()}
    for name, path in files.items():
        comparison = found.get(name)
        if comparison is None:
            value = next(iter(found.values())).perplexity
        else:
            value = perplexity(np.concatenate(tallies[name].losses))
        bits = runtime.bits(path)
        yield Row(runtime.name, name, value, comparison, bits, path.stat().st_size)


def _facts(options: argparse.Namespace, tokens: Tokens) -> dict[str, Any]:
    """What every line of figures says about the run."""
    calibrate, imatrix = options.calibrate_text, options.imatrix_text or options.calibrate_text
    return {
        "benchmark": "quality",
        "checkpoint": options.checkpoint.name,
        "text": options.text.name,
        "tokens": len(tokens),
        "tokens_sha256": hashlib.sha256(tokens.astype("<i4").tobytes()).hexdigest(),
        "window": options.window,
        "calibrate_text": None if calibrate is None else calibrate.name,
        "imatrix_text": None if imatrix is None else imatrix.name,
        "imatrix_tokens": options.imatrix_tokens,
        "llama_cpp_python": llama.installed_version(),
        "isa": _core.selected_isa(),
        "threads": options.threads,
    }


if __name__ == "__main__":
    main()
