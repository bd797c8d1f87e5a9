"""Loading on the demo model: what a model says, what its options do, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demo import GREEDY, PROMPT, ids_of

import pythia_rt
from pythia_rt import FlatFileError, Loading, Model
from pythia_rt.convert.threads import usable_processors
from pythia_rt.model import DEMO_FOLDER


@pytest.fixture(scope="module")
def without_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("bare") / "bare"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(DEMO_FOLDER / name, folder)
    return Model.from_pretrained(folder, cache_dir=folder.parent, progress=False)


def test_what_a_model_says_about_itself(model: Model) -> None:
    assert model.spec["hidden_size"] == 256
    assert model.formats["layers.0.mlp_up"] == "q4"
    assert (model.max_positions, model.kv_format) == (2048, "f16")
    assert model.threads >= 1
    assert "demo" in repr(model)
    assert model.isa in repr(model)
    model.spec["hidden_size"] = 1
    assert model.spec["hidden_size"] == 256


def test_format_threads_and_cache_format_take_effect(cache: Path, model: Model) -> None:
    ids = ids_of(model, PROMPT)
    q4 = model.logits(ids)
    one, two = (Model.demo(cache_dir=cache, threads=n) for n in (1, 2))
    assert (one.threads, two.threads) == (1, 2)
    assert np.array_equal(one.logits(ids), q4)
    assert np.array_equal(two.logits(ids), q4)
    assert Model.demo(cache_dir=cache, format="f32").kv_format == "f32"  # exact by default
    copied = Model.demo(cache_dir=cache, copy=True)
    assert np.array_equal(copied.logits(ids), q4)
    exact_cache = Model.demo(cache_dir=cache, kv_format="f32")
    assert exact_cache.kv_format == "f32"
    assert not np.array_equal(exact_cache.logits(ids), q4)
    f32 = Model.demo(cache_dir=cache, format="f32")
    assert set(f32.formats.values()) == {"f32"}
    assert not np.array_equal(f32.logits(ids), q4)


def test_options_come_as_an_object_as_keywords_or_both(cache: Path) -> None:
    loading = Loading(threads=1, kv_format="f32")
    model = Model.demo(loading, cache_dir=cache)
    assert (model.threads, model.kv_format) == (1, "f32")
    other = Model.from_pretrained(DEMO_FOLDER, loading, cache_dir=cache, kv_format="q8")
    assert (other.threads, other.kv_format) == (1, "q8")
    assert Model.load(model.file.path, loading, kv_format=None).kv_format == "f16"
    assert Model(model.file, loading).kv_format == "f32"
    assert Loading(threads=None, kv_format=None, copy=None, device=None) == Loading()  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        loading.threads = 2  # type: ignore[misc]
    with pytest.raises(ValueError, match=r"loading must be a pythia_rt\.Loading, not dict"):
        Model.load(model.file.path, {"threads": 1})  # type: ignore[arg-type]


@pytest.mark.parametrize("load", [Model.demo, Model.load, Model.from_pretrained])
def test_an_option_that_there_is_not(load: Any, cache: Path) -> None:
    arguments = [] if load == Model.demo else [cache / "nothing"]
    with pytest.raises(ValueError, match="there is no option 'thread': use threads; the options"):
        load(*arguments, thread=1)
    if load != Model.load:
        with pytest.raises(ValueError, match="there is no option 'formt': use format;"):
            load(*arguments, formt="q8")


@pytest.mark.parametrize("threads", [0, -1, 1.0, True, "2"])
def test_bad_thread_counts(cache: Path, threads: Any) -> None:
    with pytest.raises(ValueError, match="threads must be a whole number of at least 1"):
        Model.demo(cache_dir=cache, threads=threads)


def test_more_threads_than_processors(cache: Path) -> None:
    most = usable_processors()
    assert Model.demo(cache_dir=cache, threads=most).threads == most
    with pytest.raises(ValueError, match=f"threads must be at most {most}, the processors"):
        Model.demo(cache_dir=cache, threads=most + 1)


@pytest.mark.parametrize("kv_format", ["f8", "", 16, "F16"])
def test_bad_cache_formats(cache: Path, kv_format: Any) -> None:
    with pytest.raises(ValueError, match="kv_format must be one of f16, f32, q8, not"):
        Model.demo(cache_dir=cache, kv_format=kv_format)


def test_an_unknown_format(cache: Path) -> None:
    with pytest.raises(ValueError, match=r"format 'q3' is unknown: choose one of .*q4"):
        Model.demo(cache_dir=cache, format="q3")


def test_files_that_are_no_flat_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Model.load(tmp_path / "missing.safetensors")
    with pytest.raises(FlatFileError, match="folder"):
        Model.load(tmp_path)
    (tmp_path / "empty").touch()
    for wrong in (tmp_path / "empty", DEMO_FOLDER / "model.safetensors", DEMO_FOLDER / "README.md"):
        with pytest.raises(FlatFileError) as caught:
            Model.load(wrong)
        assert "\n" not in str(caught.value)


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(DEMO_FOLDER, folder)
    content = json.loads((folder / "tokenizer.json").read_bytes())
    content["pre_tokenizer"] = {"type": "Nonsense"}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"the tokenizer\.json cannot be read"):
        Model.from_pretrained(folder, cache_dir=tmp_path, progress=False)
    with pytest.raises(
        pythia_rt.convert.CheckpointError, match=r"cannot be read.* take the file away"
    ):
        pythia_rt.convert.convert(folder, tmp_path / "damaged.q4")


def test_a_model_without_tokenizer(model: Model, without_tokenizer: Model) -> None:
    ids = ids_of(model, PROMPT)
    assert without_tokenizer.tokenizer is None
    result = without_tokenizer.generate(ids, **GREEDY)
    assert result.tokens == model.generate(ids, **GREEDY).tokens
    assert result.text == ""
    with pytest.raises(ValueError, match=r"no tokenizer: give the prompt as token ids"):
        without_tokenizer.generate(PROMPT)
    with pytest.raises(ValueError, match="no tokenizer: it has no text"):
        without_tokenizer.stream(ids)
    with pytest.raises(ValueError, match="no tokenizer, so stop strings"):
        without_tokenizer.generate(ids, stop="x")
    third = result.tokens[2]
    stopped = without_tokenizer.generate(ids, **GREEDY, stop_token_ids=third)
    assert stopped.tokens == result.tokens[: result.tokens.index(third) + 1]
    assert stopped.finish_reason == "stop"
