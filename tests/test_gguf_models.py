"""Models in GGUF files, in llama.cpp's layouts, are the models of their folders to the bit."""

from __future__ import annotations

from pathlib import Path

import families
import numpy as np
import pytest
from gguf_files import LAYOUTS, write_gguf

import pythia_rt
from pythia_rt.convert import FlatFile, convert
from pythia_rt.convert.gguf.families import ARCHITECTURES

pytestmark = pytest.mark.filterwarnings("ignore:.* has no tokenizer:UserWarning")

# What llama.cpp's layouts have no place for: its Falcon always rotates, its Phi norms no queries
# and keys.
UNKNOWN = {("falcon-rw", number) for number in range(99)} | {("Phi", 4)}
CASES = [
    (name, number)
    for name, number in families.CASES
    if families.make_config(name, 0).model_type in LAYOUTS and (name, number) not in UNKNOWN
]
# What GGUF cannot say, and what does not come out to the last bit.
UNSAID = {
    ("GPT-NeoX", 1): {"activation"},  # another name of the same function
    ("GPT-2", 3): {"activation"},
    ("Phi", 3): {"activation"},
    ("Qwen2", 2): {"windows"},
    ("Qwen3", 3): {"windows"},
}


def test_every_architecture_is_tested() -> None:
    tested = {LAYOUTS[families.make_config(name, 0).model_type].architecture for name, _ in CASES}
    assert tested == set(ARCHITECTURES)


@pytest.mark.parametrize(("name", "number"), CASES)
@pytest.mark.parametrize("type", ["F32", "F16"])
def test_the_file_is_that_of_the_folder(name: str, number: int, type: str, tmp_path: Path) -> None:
    model = families.make_model(name, number)
    if type == "F16":
        model = model.half().float()
    model.save_pretrained(tmp_path / "tiny")
    source = write_gguf(tmp_path / "tiny", tmp_path / "tiny.gguf", type=type)
    made, expected = (
        FlatFile(convert(path, tmp_path / f"{path.suffix}.safetensors", format="f32"))
        for path in (source, tmp_path / "tiny")
    )
    differs = {key for key in made.spec if made.spec[key] != expected.spec[key]}
    assert differs == UNSAID.get((name, number), set())
    llama3 = "rope_type" in str(model.config) and "llama3" in str(model.config.to_dict())
    for tensor, data in expected.tensors.items():
        if tensor == "rope_frequencies" and llama3:
            ours, theirs = (f.tensors[tensor].view(np.float32) for f in (made, expected))
            np.testing.assert_array_max_ulp(ours, theirs, 2)
        else:
            assert np.array_equal(made.tensors[tensor], data), tensor
    if not differs and not llama3:
        tokens = families.tokens_of(name, number)
        logits = [pythia_rt.Model(file).logits(tokens) for file in (made, expected)]
        assert np.array_equal(logits[0], logits[1])
