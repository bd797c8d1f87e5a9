"""A norm's scale is divided with its readers by what calibration saw between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import planted
import pytest
from checkpoints import make_config, write_checkpoint
from numpy.typing import NDArray
from oracle import kernels

import pythia_rt
from pythia_rt import _core
from pythia_rt.convert import FlatFile, convert
from pythia_rt.convert.flatfile.layout import linears, vectors
from pythia_rt.convert.quantise import calibrator, measured
from pythia_rt.convert.quantise.feedback import ErrorFeedback, Inputs
from pythia_rt.evaluation.weights import relative_errors

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
COLUMNS = 192


def channels(spread: float, aligned: float, seed: int) -> tuple[Floats, Floats]:
    """Inputs [tokens, columns] of few causes, and weights [rows, columns].

    The columns of both differ by e to the normal `spread`; with `aligned` those of the weights by
    that power of those of the inputs.
    """
    random = np.random.default_rng(seed)
    causes = random.standard_normal((1000, COLUMNS // 4))
    mixed = causes @ random.standard_normal((COLUMNS // 4, COLUMNS)) / np.sqrt(COLUMNS // 4)
    sizes = np.exp(spread * random.standard_normal(COLUMNS))
    other = np.exp(spread * random.standard_normal(COLUMNS)) if aligned == 0 else sizes**aligned
    inputs = (mixed + 0.1 * random.standard_normal(mixed.shape)) * sizes
    weights = random.standard_normal((96, COLUMNS)) * other
    return inputs.astype(np.float32), weights.astype(np.float32)


def find(form: str, inputs: Floats, weights: Floats) -> tuple[Floats | None, ErrorFeedback]:
    known = Inputs(COLUMNS)
    known.add(inputs, inputs.copy())
    feedback = ErrorFeedback(form, known)
    rows = weights[measured.some_rows(len(weights))]
    reader = measured.describe_reader(form, rows, known, feedback)
    squares = np.diag(known.gram) / known.tokens
    between = measured.Between(squares, measured.some_tokens(inputs))
    return measured.choose_scales(between, [reader]), feedback


def lost(form: str, inputs: Floats, weights: Floats, feedback: ErrorFeedback) -> float:
    """The part of the outputs that 8-bit inputs and weights after feedback lose."""
    parts = _core.pack_codes(form, *feedback.quantise(weights))
    stored = _core.unpack(form, parts, *weights.shape).astype(np.float64)
    codes, steps = kernels.quantise(inputs.astype(np.float64))
    groups = np.rint(codes).reshape(len(inputs), -1, 64) * steps[:, :, None]
    rounded = groups.reshape(inputs.shape)
    truth = inputs.astype(np.float64) @ weights.T.astype(np.float64)
    errors = np.square(rounded @ stored.T - truth).sum(axis=0) / np.square(truth).sum(axis=0)
    return float(errors.mean())


def both(form: str, inputs: Floats, weights: Floats) -> tuple[float, float]:
    """What is lost as it is, and with the scales that are chosen."""
    scales, feedback = find(form, inputs, weights)
    before = lost(form, inputs, weights, feedback)
    if scales is None:
        return before, before
    feedback.rescale(scales)
    return before, lost(form, inputs * scales, weights / scales, feedback)


@pytest.mark.parametrize("form", ["q4", "q6", "q8"])
@pytest.mark.parametrize("seed", range(3))
def test_uneven_channels_lose_less(form: str, seed: int) -> None:
    """Columns that have nothing to do with their inputs, or undo more than these have."""
    for spread, aligned, most in ((1.0, 0.5, 1.05), (2.0, 0.0, 0.5), (2.0, -2.0, 0.5)):
        before, after = both(form, *channels(spread, aligned, seed))
        assert after < most * before, (spread, aligned)


@pytest.mark.parametrize("form", ["q4", "q6", "q8"])
@pytest.mark.parametrize("spread", [0.0, 0.1, 0.3])
def test_nothing_is_lost_where_channels_are_alike(form: str, spread: float) -> None:
    before, after = both(form, *channels(spread, 0.0, 7))
    assert after < 1.03 * before


def test_dead_channels_stay_as_they_are() -> None:
    inputs, weights = channels(1.0, 0.5, 0)
    inputs[:, 5], weights[:, 9] = 0, 0
    scales, _ = find("q4", inputs, weights)
    assert scales is not None
    assert np.isfinite(scales).all()
    assert (scales > 0).all()
    assert scales[9] == 1
    assert find("q4", np.zeros_like(inputs), weights)[0] is None


def test_a_sample_has_no_first_token_and_whole_blocks() -> None:
    values = np.arange(100, dtype=np.float32)[:, None]
    assert measured.some_tokens(values)[:, 0].tolist() == [8, 24, 40, 56, 72, 88]
    assert len(measured.some_tokens(values[:3])) == 3
    rows = measured.some_rows(1000)
    assert len(rows) == 248  # the last block has 8
    assert (rows[:240].reshape(-1, 16) % 16 == np.arange(16)).all()
    assert (rows[0], rows[-1]) == (0, 999)
    assert measured.some_rows(20).tolist() == list(range(20))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    plain = write_checkpoint(folder / "plain", make_config(vocab_size=96), dtype="float32", seed=5)
    return planted.plant(plain, folder / "hard", *planted.EVERYTHING)


def test_the_file_keeps_the_function(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With scales far from those of balancing: norms, readers and digest go together."""
    ids = np.random.default_rng(0).integers(0, 96, 300)
    exact = FlatFile(convert(source, tmp_path / "exact", format="f32"))
    monkeypatch.setattr(calibrator, "choose_scales", lambda *_: None)
    plain = FlatFile(convert(source, tmp_path / "plain", format="q8", calibrate=ids))

    def chosen(between: measured.Between, readers: object) -> Floats:
        return chosen_like(between.sample[0])

    monkeypatch.setattr(calibrator, "choose_scales", chosen)
    file = FlatFile(convert(source, tmp_path / "flat", format="q8", calibrate=ids))
    file.verify()
    before, after = unpacked(plain), unpacked(file)
    for name in ("layers.0.attn_norm", "layers.1.mlp_norm", "final_norm"):
        weight = f"{name}.weight"
        assert np.array_equal(after[weight] / before[weight], chosen_like(before[weight]))
        for matrix in linears(file.spec):
            if matrix.reads == name:
                error = after[matrix.name] * chosen_like(before[weight]) - before[matrix.name]
                assert np.linalg.norm(error) < 0.05 * np.linalg.norm(before[matrix.name])
    tokens = ids[:60].astype(np.int32)
    truth = pythia_rt.Model(exact, threads=1).logits(tokens)
    found = pythia_rt.Model(file, threads=1).logits(tokens)
    assert np.abs(found - truth).max() < 0.05 * np.abs(truth).max()
    errors, usual = relative_errors(file, exact), relative_errors(plain, exact)
    for name, error in errors.items():
        assert error < 1.5 * usual[name], name
    assert relative_errors(file, file)["head"] == 0


def unpacked(file: FlatFile) -> dict[str, Floats]:
    found = {n: file.tensors[n].view(np.float32)[:size] for n, size in vectors(file.spec).items()}
    for matrix in linears(file.spec):
        form, shape = file.formats[matrix.name], (matrix.rows, matrix.columns)
        parts = [part for part, _, _ in _core.packed_layout(form, *shape)]
        stored = [file.tensors[f"{matrix.name}.{part}"] for part in parts]
        found[matrix.name] = _core.unpack(form, stored, *shape)
    return found


def chosen_like(vector: Floats) -> Floats:
    return np.exp2(np.arange(len(vector)) % 2).astype(np.float32)
