"""Converting takes memory for chunks, not for tensors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from convert_sources import make_config

WIDTH, VOCAB = 1024, 100_000
CHILD = """
import resource, sys
import pythia_rt.convert
from pythia_rt import _core
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
path = pythia_rt.convert.convert(sys.argv[1], sys.argv[2], format="q8")
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) // 1024, path.stat().st_size >> 20)
"""


def write_sparse(folder: Path) -> int:
    """Write a checkpoint of zeros that takes no space on the disk; return its bytes."""
    shapes = {
        "embed_in.weight": [VOCAB, WIDTH],
        "final_layer_norm.weight": [WIDTH],
        "final_layer_norm.bias": [WIDTH],
        "embed_out.weight": [VOCAB, WIDTH],
    }
    for norm in ("input_layernorm", "post_attention_layernorm"):
        shapes |= {f"layers.0.{norm}.weight": [WIDTH], f"layers.0.{norm}.bias": [WIDTH]}
    for name, rows, columns in (
        ("attention.query_key_value", 3 * WIDTH, WIDTH),
        ("attention.dense", WIDTH, WIDTH),
        ("mlp.dense_h_to_4h", 4 * WIDTH, WIDTH),
        ("mlp.dense_4h_to_h", WIDTH, 4 * WIDTH),
    ):
        shapes |= {f"layers.0.{name}.weight": [rows, columns], f"layers.0.{name}.bias": [rows]}
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * shape[0] * (shape[1] if len(shape) == 2 else 1)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + end)
    config = make_config(
        hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=16, intermediate_size=4 * WIDTH
    )
    (folder / "config.json").write_text(json.dumps(config))
    return end


def test_memory_does_not_grow_with_the_tensors(tmp_path: Path) -> None:
    total = write_sparse(tmp_path)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path), str(tmp_path / "flat")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    grown, written = map(int, child.stdout.split())
    assert written > total >> 22
    # Two tensors of 195 MiB each; chunks are of 16.
    assert grown < 128, f"{grown} MiB for a source of {total >> 20} MiB"
