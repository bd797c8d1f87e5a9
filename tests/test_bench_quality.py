"""The comparison of quantisations counts right, and writes GGUF files as llama.cpp expects them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoints import make_config
from conftest import ROOT

import pythia_rt
from bench import checkpoint
from bench.peers import llama
from bench.studies.quality_table import Row, table
from bench.studies.weight_bits import Tensor, WeightBits, flat_tensors, weight_bits
from bench.texts import gather
from pythia_rt.convert import FlatFile, convert
from pythia_rt.convert.flatfile.layout import linears
from pythia_rt.evaluation import evaluate
from pythia_rt.evaluation.result import Comparison, Estimate, Side

# What bench.peers.llama_quantize calls of llama-cpp-python.
LLAMA_CPP = """
import ctypes
from pathlib import Path

LLAMA_FTYPE_MOSTLY_Q4_0 = 2


class llama_model_quantize_default_params(ctypes.Structure):
    _fields_ = [("ftype", ctypes.c_int)]


def llama_model_quantize(source, target, parameters):
    chosen = parameters._obj.ftype
    made = Path(source.decode()).read_bytes() + f" as {chosen}".encode()
    Path(target.decode()).write_bytes(made)
    return 0
"""

SAMPLE = ROOT / "pythia_rt" / "evaluation" / "sample.txt"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.quality", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_our_recipes(demo_folder: Path, demo_file: Callable[[str], Path], tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    extra = demo_file("q8")
    options = ("--max-tokens", 2000, "--threads", 1, "--peers", "--markdown", "--json", lines)
    done = run(demo_folder, "--text", SAMPLE, "--recipes", "q4", "--files", extra, *options)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| pythia_rt ")]
    assert [row.split()[2] for row in rows] == ["f32", "q4", extra.name]
    records = {record["name"]: record for record in map(json.loads, lines.read_text().splitlines())}
    assert records["f32"]["comparison"] is None
    assert records["f32"]["bits"]["layers"] == 32

    expected = evaluate(
        extra,
        SAMPLE,
        reference=demo_file("f32"),
        window=256,
        max_tokens=2000,
        weights=False,
        threads=1,
        kv_format="f32",
    ).to_dict()
    found = records[extra.name]
    assert found["tokens_sha256"] == expected["tokens_sha256"]
    assert found["perplexity"] == expected["perplexity"]
    del expected["comparison"]["reference"], expected["comparison"]["weight_errors"]
    assert found["comparison"] == expected["comparison"]
    assert (
        records["q4"]["comparison"]["divergence"]["value"]
        > (found["comparison"]["divergence"]["value"])
    )


def test_a_missing_tokenizer_can_be_lent(demo_folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).symlink_to(demo_folder / name)
    options = ("--text", SAMPLE, "--max-tokens", 300, "--recipes", "q8", "--peers")
    refused = run(bare, *options)
    assert refused.returncode == 1
    assert "--tokenizer" in refused.stderr
    done = run(bare, *options, "--tokenizer", demo_folder)
    assert done.returncode == 0, done.stderr
    assert "pythia_rt q8" in done.stdout


def test_bits_count_every_tensor_once(demo_file: Callable[[str], Path]) -> None:
    file = FlatFile(demo_file("q8"))
    tensors = list(flat_tensors(file))
    sizes = {name: values.nbytes for name, values in file.tensors.items()}
    files = sum(size for name, size in sizes.items() if name.startswith("tokenizer"))
    assert sum(tensor.bytes for tensor in tensors) == sum(sizes.values()) - files
    assert [tensor.kind for tensor in tensors].count("layer") == 4 * file.spec["n_layers"]
    assert [tensor.kind for tensor in tensors].count("head") == 1


def test_bits_of_a_tied_model_have_the_embedding() -> None:
    layer, vector = Tensor("layer", 80, 40), Tensor("vector", 5, 20)
    embedding, head = Tensor("embedding", 20, 60), Tensor("head", 20, 20)
    assert weight_bits([layer, vector, embedding]) == WeightBits(4.0, 8.0, 9.6)
    assert weight_bits([layer, vector, embedding, head]) == WeightBits(4.0, 4.8, 6.4)


def test_divergences_are_given_in_multiples_of_the_unit() -> None:
    side, one = Side("", "", "", "", ""), Estimate(1.0, None)

    def row(runtime: str, name: str, divergence: float) -> Row:
        found = Comparison(side, one, one, Estimate(divergence, 0.1), 2, 3, 1, 1, 1, None)
        return Row(runtime, name, one, found, WeightBits(4, 5, 6), 1000)

    rows = [row("a", "q4", 3.0), row("b", "Q4_K_M", 2.0)]
    heading, *lines = table(rows, "Q4_K_M", markdown=False)
    assert heading.endswith("KL / Q4_K_M")
    assert [line.split()[-1] for line in lines] == ["1.500", "1.000"]
    heading, rule, *_ = table(rows[:1], "Q4_K_M", markdown=True)
    assert heading.endswith("MB |")
    assert heading.count("|") == rule.count("|")


LLAMA = {
    "model_type": "llama",
    "vocab_size": 80,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def test_random_checkpoints_of_llama_convert_and_run(tmp_path: Path) -> None:
    folder = checkpoint.write(tmp_path / "tiny", LLAMA)
    weights = checkpoint.layer_weights(LLAMA)
    assert weights == 2 * (64 * 64 * 2 + 2 * 32 * 64 + 3 * 96 * 64)
    path = convert(folder, tmp_path / "flat", format="f32")
    assert sum(m.rows * m.columns for m in linears(FlatFile(path).spec) if m.layer >= 0) == weights
    assert pythia_rt.Model.load(path).logits([1, 2, 3]).std() > 0.5


def test_gguf_file(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
    from bench.peers.gguf_file import gguf_name, write_gguf
    from bench.studies.weight_bits import gguf_tensors

    config = make_config()
    folder = checkpoint.write(tmp_path / "tiny", config, dtype="float32", shards=2)
    write_gguf(folder, tmp_path / "tiny.gguf")
    reader = gguf.GGUFReader(tmp_path / "tiny.gguf")
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    from test_bench import read_all

    source = read_all(folder)
    assert set(found) == {gguf_name(name) for name in source}
    for name, values in source.items():
        stored = found[gguf_name(name)]
        if ".query_key_value." not in name:
            np.testing.assert_array_equal(stored, values)
            continue
        # Ours has for each head its query, key and value; theirs all queries, then all keys, ...
        heads = config["num_attention_heads"]
        width = len(values) // (3 * heads)
        for part in range(3):
            for head in range(heads):
                theirs, ours = (part * heads + head) * width, (head * 3 + part) * width
                np.testing.assert_array_equal(
                    stored[theirs : theirs + width], values[ours : ours + width]
                )
    assert reader.fields["gptneox.attention.head_count"].contents() == heads
    bits = weight_bits(gguf_tensors(tmp_path / "tiny.gguf"))
    flat = convert(folder, tmp_path / "tiny.f32", format="f32")
    assert bits.matrices == 32
    assert bits.tensors == pytest.approx(weight_bits(flat_tensors(FlatFile(flat))).tensors, rel=0.2)


def test_gguf_file_of_llama(tmp_path: Path) -> None:
    """Queries and keys rotate neighbours there; everything else is as it is."""
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
    from test_bench import read_all

    from bench.peers.gguf_file import gguf_name, write_gguf

    folder = checkpoint.write(tmp_path / "tiny", LLAMA, dtype="float32")
    write_gguf(folder, tmp_path / "tiny.gguf")
    reader = gguf.GGUFReader(tmp_path / "tiny.gguf")
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    source = read_all(folder)
    assert set(found) == {gguf_name(name) for name in source}
    for name, values in source.items():
        stored = found[gguf_name(name)]
        if "q_proj" in name or "k_proj" in name:
            for head in range(len(values) // 16):
                for i in range(8):
                    pair = values[[16 * head + i, 16 * head + i + 8]]
                    np.testing.assert_array_equal(stored[16 * head + 2 * i :][:2], pair)
        else:
            np.testing.assert_array_equal(stored, values)
    assert reader.fields["llama.attention.head_count_kv"].contents() == 2


def test_gathered_text_is_the_same_twice() -> None:
    text = gather(50_000)
    assert text == gather(50_000)
    assert len(text.encode().decode()) <= 50_001


def test_quantising_by_llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs in a process of its own, wherever the caller stands, and what it says is told."""
    (tmp_path / "llama_cpp.py").write_text(LLAMA_CPP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "source.gguf"
    source.write_bytes(b"weights")
    llama.quantise(source, tmp_path / "target.gguf", "Q4_0")
    assert (tmp_path / "target.gguf").read_bytes() == b"weights as 2"
    with pytest.raises(RuntimeError, match=r"^llama\.cpp could not make Q9: 'Q9' is no format of"):
        llama.quantise(source, tmp_path / "other.gguf", "Q9")


@pytest.mark.parametrize("shape", ["llama", "falcon"])
def test_a_trained_checkpoint_converts(
    shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import train_tiny

    options = ["--text", str(SAMPLE), "--steps", "1", "--batch", "1"]
    for name, more in (("one", []), ("two", ["--begin", str(tmp_path / "one")])):
        command = ["train_tiny", shape, str(tmp_path / name), *options, *more]
        monkeypatch.setattr(sys, "argv", command)
        train_tiny.main()
    model = pythia_rt.Model.load(convert(tmp_path / "two", tmp_path / "flat", format="f32"))
    assert len(model.generate("The", max_new_tokens=3, temperature=0).tokens) == 3
