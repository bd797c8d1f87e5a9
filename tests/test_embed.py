"""Embeddings of texts: transformers' last_hidden_state, pooled, whatever is beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pythia_rt import MissingBasis, Model, _core
from pythia_rt.convert import FlatFile, convert

Floats = NDArray[np.float32]
# OPT's variants have no final norm, one in each layer's end, or another width before the head.
CASES = [
    (name, number)
    for name, number in families.CASES
    if number == 0 or name in ("GPT-NeoX", "OPT", "OPT-350m")
]
LENGTHS = (1, 40, 9)


def texts_of(lengths: tuple[int, ...] = LENGTHS) -> list[NDArray[np.int32]]:
    random = np.random.default_rng(5)
    return [random.integers(0, families.VOCAB, n, np.int32) for n in lengths]


@torch.inference_mode()
def last_hidden_state(theirs: Any, tokens: NDArray[np.int32]) -> Floats:
    base = theirs.base_model
    states = base(torch.from_numpy(tokens.astype(np.int64))[None]).last_hidden_state[0]
    found: Floats = states.numpy()
    return found


def projected(theirs: Any, rows: Floats) -> Floats:
    """OPT-350m's states have another width when they come out: theirs are those behind it."""
    project = getattr(getattr(theirs.base_model, "decoder", None), "project_out", None)
    return rows if project is None else rows @ project.weight.detach().numpy().T


@pytest.mark.parametrize(("name", "number"), CASES)
def test_embeddings_are_the_pooled_last_hidden_state(
    name: str, number: int, tmp_path: Path
) -> None:
    theirs = families.make_model(name, number)
    folder = families.save(theirs, tmp_path / "source", number)
    model = Model.load(convert(folder, tmp_path / "flat", format="f32"), threads=2)
    texts = texts_of()
    expected = [last_hidden_state(theirs, text) for text in texts]
    for pooling, pool in (("mean", lambda h: h.mean(axis=0)), ("last", lambda h: h[-1])):
        found = model.embed(texts, pooling=pooling)
        assert found.dtype == np.float32
        assert found.shape == (len(texts), model.spec["hidden_size"])
        pooled = np.stack([pool(states) for states in expected])
        np.testing.assert_allclose(projected(theirs, found), pooled, rtol=0, atol=1e-4)


def hidden(module: Any, sessions: list[Any], tokens: list[NDArray[np.int32]]) -> Floats:
    _, (rows,) = module.run(sessions, tokens, capture=[("final_norm", -1)], logits="none")
    found: Floats = rows
    return found


@pytest.mark.parametrize("form", ["q8", "q4"])
@pytest.mark.parametrize("name", ["GPT-NeoX", "LLaMA", "Phi"])  # norms of all kinds, a head's bias
def test_a_quantised_file_has_its_sources_channels(name: str, form: str, tmp_path: Path) -> None:
    """Its final norm is balanced with its head; the embedding is in the source's scales."""
    folder = families.save(families.make_model(name, 0), tmp_path / "source", 0)
    exact, rounded = (
        Model.load(convert(folder, tmp_path / f, format=f), threads=2) for f in ("f32", form)
    )
    texts = texts_of((30, 40))
    expected, found = exact.embed(texts), rounded.embed(texts)
    sessions = [_core.Session(rounded._core, kv_format="f32") for _ in texts]
    raw = hidden(_core, sessions, texts)
    stored = np.stack([part.mean(axis=0) for part in np.split(raw, [30])])

    def error(values: Floats) -> float:
        return float(np.linalg.norm(values - expected) / np.linalg.norm(expected))

    assert error(found) < (0.02 if form == "q8" else 0.2)
    assert error(stored) > (8 if form == "q8" else 1.3) * error(found)


@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=8),
    pooling=st.sampled_from(["mean", "last"]),
)
@settings(deadline=None, max_examples=examples(15))
def test_a_text_has_the_same_bits_whatever_is_beside_it(
    model: Model, lengths: list[int], pooling: str
) -> None:
    random = np.random.default_rng(sum(lengths))
    texts = [random.integers(0, 4000, n, np.int32) for n in lengths]
    together = model.embed(texts, pooling=pooling)
    alone = [model.embed([text], pooling=pooling)[0] for text in texts]
    assert (together == np.stack(alone)).all()


def test_texts_that_take_several_passes(model: Model) -> None:
    texts = [f"{number} is read after {number - 1}, " * 30 for number in range(12)]
    together = model.embed(texts)
    assert (together[[0, 5, 11]] == model.embed([texts[0], texts[5], texts[11]])).all()
    assert (together[7] == model.embed([texts[7]])[0]).all()
    reversed_ = model.embed(list(reversed(texts)))
    assert (reversed_[::-1] == together).all()


def test_every_instruction_set_gives_the_same(isa: str, model: Model, tmp_path: Path) -> None:
    texts = ["The kernel", "a", "Memory is read forward, which is why"]
    expected = model.embed(texts)
    assert (Model.load(model.file.path, threads=1).embed(texts) == expected).all()


@pytest.mark.parametrize("gpu_layers", [1, None])
def test_a_device_gives_the_same(model: Model, gpu_layers: int | None) -> None:
    from backends import _emulated

    tokens = texts_of((30, 1, 8))
    expected = hidden(_core, [_core.Session(model._core) for _ in tokens], tokens)
    file = FlatFile(model.file.path)
    layers = {} if gpu_layers is None else {"gpu_layers": gpu_layers}
    on_device = _emulated.Model(
        dict(file.spec), file.formats, file.tensors, threads=1, device="cuda", **layers
    )
    found = hidden(_emulated, [_emulated.Session(on_device) for _ in tokens], tokens)
    assert (found == expected).all()


def test_lengths_of_one(model: Model) -> None:
    texts = ["The kernel", "a"]
    plain, unit = model.embed(texts), model.embed(texts, normalise=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
    lengths = np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(unit * lengths, plain, rtol=1e-5)


def test_no_logits_are_computed_or_kept(model: Model) -> None:
    session = _core.Session(model._core)
    rows = hidden(_core, [session], [np.arange(5, dtype=np.int32)])
    assert rows.shape == (5, model.spec["hidden_size"])
    assert session.position == 5
    with pytest.raises(ValueError, match="no logits to continue from"):
        _ = session.last_logits
    # What comes after is what it is after a prompt that was read in the usual way.
    other = _core.Session(model._core)
    other.prefill(np.arange(5, dtype=np.int32))
    last = np.array([7], np.int32)
    np.testing.assert_array_equal(session.logits(last), other.logits(last))


def test_bad_arguments(model: Model) -> None:
    with pytest.raises(ValueError, match="embed takes a list of texts"):
        model.embed("a text")
    with pytest.raises(ValueError, match="normalise must be True or False, not 'yes'"):
        model.embed(["a"], normalise="yes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pooling"):
        model.embed(["a"], pooling="max")
    with pytest.raises(ValueError, match="text 2 of 2: the prompt is empty"):
        model.embed(["a", ""])
    with pytest.raises(ValueError, match="not in the vocabulary"):
        model.embed([[10**6]])
    with pytest.raises(ValueError, match="do not fit into the context"):
        model.embed([[1] * (model.max_positions + 1)])
    assert model.embed([]).shape == (0, model.spec["hidden_size"])
    with pytest.raises(ValueError, match="no session"):
        hidden(_core, [], [])
    session = _core.Session(model._core)
    with pytest.raises(ValueError, match="same session twice"):
        hidden(_core, [session, session], [np.arange(3, dtype=np.int32)] * 2)
    assert session.position == 0


def test_files_that_do_not_say_how_they_are_scaled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = families.save(families.make_model("GPT-NeoX", 0), tmp_path / "source", 0)
    monkeypatch.setattr("pythia_rt.convert.quantise.basis.SourceBasis.stored", lambda self: {})
    model = Model.load(convert(folder, tmp_path / "flat", format="q8"))
    model.logits([1, 2])
    with pytest.raises(MissingBasis, match="does not say what takes final_norm back"):
        model.embed([[1, 2]])
