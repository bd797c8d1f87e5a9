"""Calibrated conversion: the algorithm against a slow one, then from a checkpoint to a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from convert_sources import IDS, VOCAB, make_config, make_tensors, write_checkpoint
from numpy.typing import NDArray
from oracle import gptq as oracle

import pythia_rt
from pythia_rt import _core
from pythia_rt.convert import CheckpointError, FlatFile, convert
from pythia_rt.convert.flatfile import layout
from pythia_rt.convert.quantise import feedback

Floats = NDArray[np.float32]
QUANTISED = [name for name in _core.format_names() if layout.is_quantised(name)]
LINEARS = ("qkv", "attn_out", "mlp_up", "mlp_down")


def correlated(tokens: int, columns: int, seed: int = 0) -> Floats:
    """Inputs [tokens, columns] whose columns say much about each other, of different strengths."""
    random = np.random.default_rng(seed)
    causes = random.standard_normal((tokens, max(columns // 8, 1)))
    mixed = causes @ random.standard_normal((causes.shape[1], columns))
    strengths = np.exp(random.standard_normal(columns))
    noise = 0.1 * random.standard_normal((tokens, columns))
    return ((mixed + noise) * strengths).astype(np.float32)


def known(seen: Floats, exact: Floats | None = None) -> feedback.Inputs:
    inputs = feedback.Inputs(seen.shape[1])
    inputs.add(seen, (seen if exact is None else exact).copy())
    return inputs


def values_of(form: str, found: feedback.Quantised) -> Floats:
    parts = _core.pack_codes(form, *found)
    return _core.unpack(form, parts, *found.codes.shape)


def plain(form: str, weights: Floats) -> Floats:
    return _core.unpack(form, _core.pack(form, weights, "F32", *weights.shape), *weights.shape)


def error(weights: Floats, found: Floats, inputs: Floats) -> float:
    return float(np.square(inputs.astype(np.float64) @ (weights - found).T).sum())


def weights_of(rows: int, columns: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def test_inverse_factor() -> None:
    inputs = correlated(500, 150).astype(np.float64)
    matrix = inputs.T @ inputs + 10 * np.eye(150)
    factor = feedback.inverse_factor(matrix)
    assert not np.tril(factor, -1).any()
    np.testing.assert_allclose(factor.T @ factor @ matrix, np.eye(150), atol=1e-6)


@pytest.mark.parametrize("form", QUANTISED)
@pytest.mark.parametrize(("rows", "columns"), [(20, 64), (33, 150)])
def test_feedback_against_column_by_column(form: str, rows: int, columns: int) -> None:
    """With the scales that were found, the codes are those of the published algorithm in f64."""
    weights = weights_of(rows, columns)
    inputs = known(correlated(400, columns))
    found = feedback.ErrorFeedback(form, inputs).quantise(weights)
    codes = oracle.quantise(
        weights, inputs.gram, feedback.DAMPING, _core.levels(form), found.scales
    )
    # An f32 sum may fall on the other side of the middle between two levels, and from there on a
    # row goes its own way.
    same = (codes == found.codes).all(axis=1).mean()
    assert same > 0.6, same
    levels = np.array(_core.levels(form), np.float32)
    groups = np.arange(columns) // 64
    theirs = levels[codes] * found.scales[:, groups]
    seen = correlated(400, columns)
    ours = error(weights, values_of(form, found), seen)
    assert ours == pytest.approx(error(weights, theirs, seen), rel=0.03)


@pytest.mark.parametrize("form", QUANTISED)
def test_strongly_correlated_inputs_gain_much(form: str) -> None:
    weights, seen = weights_of(48, 256), correlated(2000, 256)
    found = values_of(form, feedback.ErrorFeedback(form, known(seen)).quantise(weights))
    assert error(weights, found, seen) < 0.5 * error(weights, plain(form, weights), seen)


@pytest.mark.parametrize("form", QUANTISED)
@pytest.mark.parametrize("columns", [48, 63, 200])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_never_worse_than_rounding(form: str, columns: int, seed: int) -> None:
    """Inputs without any correlation are the worst case."""
    random = np.random.default_rng(seed)
    seen = random.standard_normal((300, columns)).astype(np.float32)
    weights = weights_of(40, columns, seed)
    found = values_of(form, feedback.ErrorFeedback(form, known(seen)).quantise(weights))
    assert error(weights, found, seen) <= 1.03 * error(weights, plain(form, weights), seen)


def test_dead_columns_and_few_tokens() -> None:
    weights = weights_of(32, 200)
    seen = correlated(20, 200)  # the products have rank 20
    seen[:, 50:120] = 0
    for inputs in (seen, np.zeros_like(seen), seen[:1]):
        found = values_of("q4", feedback.ErrorFeedback("q4", known(inputs)).quantise(weights))
        assert np.abs(found - weights).max() < 2
        assert error(weights, found, inputs) <= error(weights, plain("q4", weights), inputs)


def test_zero_weights_stay_zero() -> None:
    weights = weights_of(32, 128)
    weights[:16] = 0
    found = feedback.ErrorFeedback("q5", known(correlated(300, 128))).quantise(weights)
    assert not values_of("q5", found)[:16].any()


def test_rows_may_be_divided_and_threads_do_not_matter() -> None:
    weights, one = weights_of(96, 130), known(correlated(300, 130))
    quantiser = feedback.ErrorFeedback("q4", one)
    whole = quantiser.quantise(weights, threads=1)
    again = quantiser.quantise(weights, threads=3)
    for a, b in zip(whole, again, strict=True):
        np.testing.assert_array_equal(a, b)
    # BLAS may add up in another order where a matrix has other rows: nearly the same.
    part = quantiser.quantise(weights[:32])
    assert (part.codes == whole.codes[:32]).mean() > 0.98


def test_part_of_an_earlier_error_is_put_right() -> None:
    """The inputs have drifted from those of the exact model: the outputs come nearer to its."""
    exact = correlated(2000, 128)
    seen = exact + 0.2 * correlated(2000, 128, seed=5)
    weights = weights_of(32, 128)

    def distance(catch_up: float) -> float:
        quantiser = feedback.ErrorFeedback("q8", known(seen, exact), catch_up=catch_up)
        found = values_of("q8", quantiser.quantise(weights))
        return float(np.square(seen @ found.T - exact @ weights.T).sum())

    assert distance(1) < distance(0.4) < distance(0)


def test_inputs_that_are_not_finite_are_refused() -> None:
    seen = correlated(30, 64)
    seen[3, 3] = np.inf
    with np.errstate(all="ignore"), pytest.raises(np.linalg.LinAlgError):
        feedback.ErrorFeedback("q4", known(seen))


def of_layer(file: FlatFile, index: int) -> dict[str, NDArray[np.uint8]]:
    """The tensors of a layer and those that every layer reads."""
    prefix = f"layers.{index}."
    found = {n.removeprefix(prefix): t for n, t in file.tensors.items() if n.startswith(prefix)}
    return found | {t.name: file.tensors[t.name] for t in layout.tables(file.spec) if t.shared}


@pytest.mark.parametrize("parallel", [True, False])
def test_captured_inputs_are_those_of_transformers(tmp_path: Path, parallel: bool) -> None:
    from transformers import GPTNeoXForCausalLM

    config = make_config(
        use_parallel_residual=parallel, vocab_size=VOCAB, max_position_embeddings=512
    )
    tensors = {
        name: 0.2 * tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in make_tensors().items()
    }
    folder = write_checkpoint(tmp_path / "source", tensors, config=config)
    theirs = GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    captured: dict[str, Any] = {}

    def remember(name: str) -> Callable[..., None]:
        return lambda _, arguments: captured.update({name: arguments[0][0].numpy()})

    layer = theirs.gpt_neox.layers[1]
    for name, module in (
        ("qkv", layer.attention.query_key_value),
        ("attn_out", layer.attention.dense),
        ("mlp_up", layer.mlp.dense_h_to_4h),
        ("mlp_down", layer.mlp.dense_4h_to_h),
    ):
        module.register_forward_pre_hook(remember(name))
    tokens = torch.arange(300)[None] % VOCAB  # more than one pass
    with torch.no_grad():
        states = theirs(tokens, output_hidden_states=True).hidden_states
        # The last of the states is normed; the layer's own output is what is compared.
        after: list[Any] = []
        layer.register_forward_hook(lambda *a: after.append(a[2]))
        theirs(tokens)
    file = FlatFile(convert(folder, tmp_path / "flat", format="f32"))
    ours = _core.Layer(
        file.spec,
        dict.fromkeys(LINEARS, "f32"),
        of_layer(file, 1),
        threads=2,
    )
    out, inputs = ours.run(states[1][0].numpy(), capture=True)
    assert set(inputs) == set(LINEARS)
    for name, values in inputs.items():
        np.testing.assert_allclose(values, captured[name], rtol=1e-3, atol=1e-4)
    expected = after[0][0] if isinstance(after[0], tuple) else after[0]
    np.testing.assert_allclose(out, expected.reshape(out.shape).numpy(), rtol=1e-3, atol=1e-4)
    again, nothing = ours.run(states[1][0].numpy())
    np.testing.assert_array_equal(out, again)
    assert nothing == {}


def test_a_layer_refuses_what_does_not_fit(tmp_path: Path) -> None:
    file = FlatFile(convert(write_checkpoint(tmp_path / "s"), tmp_path / "flat", format="f32"))
    tensors = of_layer(file, 0)
    layer = _core.Layer(file.spec, dict.fromkeys(LINEARS, "f32"), tensors)
    for shape in ((0, 72), (65, 72), (3, 71), (72,)):
        with pytest.raises(ValueError):
            layer.run(np.zeros(shape, np.float32))
    del tensors["qkv.bias"]
    with pytest.raises(ValueError, match=r"qkv\.bias"):
        _core.Layer(file.spec, dict.fromkeys(LINEARS, "f32"), tensors)


def log_probabilities(path: Path, windows: NDArray[np.int32]) -> Floats:
    model = pythia_rt.Model.load(path)
    logits = np.stack([model.logits(window) for window in windows])
    logits -= logits.max(axis=-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logits


def test_the_demo_model_loses_less(
    tmp_path: Path, technical_text: str, demo_folder: Path, demo_file: Callable[[str], Path]
) -> None:
    """Calibrated on the first third of the text, measured on windows of the rest."""
    cut = len(technical_text) // 3
    start, rest = technical_text[:cut], technical_text[cut:]
    path = convert(demo_folder, tmp_path / "calibrated", calibrate=start, calibrate_tokens=4096)
    tokenizer = pythia_rt.Model.load(path).tokenizer
    assert tokenizer is not None
    tokens = np.array(tokenizer.encode(rest), np.int32)
    windows = tokens[: len(tokens) // 256 * 256].reshape(-1, 256)[::5]
    reference = log_probabilities(demo_file("f32"), windows)

    def divergence(file: Path) -> float:
        difference = reference - log_probabilities(file, windows)
        return float((np.exp(reference) * difference).sum(axis=-1, dtype=np.float64).mean())

    assert divergence(path) < 0.65 * divergence(demo_file("q4"))
    ours, plain_file = FlatFile(path), FlatFile(demo_file("q4"))
    ours.verify()
    assert ours.formats == plain_file.formats
    shapes = [[(n, e.dtype, e.shape) for n, e in f.entries.items()] for f in (ours, plain_file)]
    assert shapes[0] == shapes[1]
    assert ours.metadata["recipe"].startswith("q4 calibrated=4096 tokens of ")


def small(tmp_path: Path, **changes: Any) -> Path:
    return write_checkpoint(tmp_path / "source", **changes)


@pytest.mark.parametrize("options", [{}, {"head": "f16"}, {"mlp": "bf16"}, {"format": "q8"}])
def test_any_mix_of_formats(tmp_path: Path, options: dict[str, str]) -> None:
    ids = np.arange(500) % VOCAB
    folder = small(tmp_path)
    path = convert(folder, tmp_path / "flat", calibrate=ids, **options)  # type: ignore[arg-type]
    again = convert(folder, tmp_path / "again", calibrate=list(ids), **options)  # type: ignore[arg-type]
    assert path.read_bytes() == again.read_bytes()
    file, free = FlatFile(path), FlatFile(convert(folder, tmp_path / "f", **options))  # type: ignore[arg-type]
    # 500 ids in sequences of the context, 64 tokens.
    assert " calibrated=500 tokens of " in file.metadata["recipe"]
    for matrix in layout.linears(file.spec):
        name = f"{matrix.name}.weight"
        same = file.tensors[name].tobytes() == free.tensors[name].tobytes()
        form = file.formats[matrix.name]
        assert same == (matrix.name == "embed" or not layout.is_quantised(form)), name


def test_a_tied_head_and_a_single_sequence_of_two_tokens(tmp_path: Path) -> None:
    tensors = make_tensors()
    del tensors["embed_out.weight"]
    folder = small(tmp_path, tensors=tensors, config=make_config(tie_word_embeddings=True))
    file = FlatFile(convert(folder, tmp_path / "flat", calibrate=[1, 2]))
    assert "calibrated=2 tokens" in file.metadata["recipe"]


def test_sequences_are_spread_over_the_text(tmp_path: Path) -> None:
    from pythia_rt.convert.quantise.calibration_text import read_calibration

    file = FlatFile(convert(small(tmp_path), tmp_path / "flat", format="f32"))
    spec = {**file.spec, "vocab_size": 5000}
    cut = read_calibration(range(1000), 192).sequences(spec, None)  # type: ignore[arg-type]
    assert [(s[0], len(s)) for s in cut] == [(0, 64), (448, 64), (896, 64)]
    cut = read_calibration(range(130), None).sequences(spec, None)  # type: ignore[arg-type]
    assert [len(s) for s in cut] == [64, 64, 2]
    cut = read_calibration(range(129), None).sequences(spec, None)  # type: ignore[arg-type]
    assert [len(s) for s in cut] == [64, 64]
    cut = read_calibration(range(100), 10).sequences(spec, None)  # type: ignore[arg-type]
    assert [len(s) for s in cut] == [10]


ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "empty": ({"calibrate": ""}, ValueError, "is empty"),
    "one id": ({"calibrate": [1]}, ValueError, "has 1 of the 2 tokens"),
    "no ids": ({"calibrate": []}, ValueError, "has 0 of the 2 tokens"),
    "unknown id": ({"calibrate": [1, VOCAB]}, ValueError, f"between 0 and {VOCAB - 1}"),
    "negative id": ({"calibrate": [1, -1]}, ValueError, "between 0 and"),
    "fractions": ({"calibrate": [1.5, 2]}, ValueError, "whole numbers"),
    "surrogate": ({"calibrate": "a\ud800"}, ValueError, "lone surrogate"),
    "floats": ({"calibrate": [1, 2], "format": "f16"}, ValueError, "nothing to calibrate"),
    "tokens alone": ({"calibrate_tokens": 5}, ValueError, "no effect without calibrate"),
    "few tokens": ({"calibrate": [1, 2], "calibrate_tokens": 1}, ValueError, "at least 2 tokens"),
    "no file": ({"calibrate": Path("no such file")}, FileNotFoundError, "does not exist"),
    "a folder": ({"calibrate": Path("/")}, IsADirectoryError, "is a folder"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_leave_nothing(tmp_path: Path, case: str) -> None:
    options, kind, message = ERRORS[case]
    target = tmp_path / "out" / "flat"
    target.parent.mkdir()
    with pytest.raises(kind, match=message) as caught:
        convert(small(tmp_path), target, **options)
    assert "\n" not in str(caught.value)
    assert not list(target.parent.iterdir())


def test_a_text_needs_a_tokenizer_and_utf_8(tmp_path: Path) -> None:
    folder = small(tmp_path)
    (tmp_path / "latin").write_bytes(b"abc \xe9")
    with pytest.raises(ValueError, match="not UTF-8: byte 0xe9 at offset 4"):
        convert(folder, tmp_path / "flat", calibrate=tmp_path / "latin")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        convert(folder, tmp_path / "flat", calibrate="some text")
    assert FlatFile(convert(folder, tmp_path / "flat", calibrate=[*range(IDS)]))


def test_a_model_that_overflows(tmp_path: Path) -> None:
    tensors = make_tensors(torch.float32)
    tensors["gpt_neox.layers.1.input_layernorm.weight"] *= 1e30
    folder = small(tmp_path, tensors=tensors)
    with np.errstate(all="ignore"), pytest.raises(CheckpointError, match="overflow"):
        convert(folder, tmp_path / "flat", calibrate=[*range(IDS)])
    assert not (tmp_path / "flat").exists()


@pytest.mark.parametrize("where", ["ErrorFeedback.quantise", "Inputs.add"])
def test_an_interrupt_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{feedback.__name__}.{where}", interrupt)
    target = tmp_path / "out" / "flat"
    target.parent.mkdir()
    with pytest.raises(KeyboardInterrupt):
        convert(small(tmp_path), target, calibrate=[*range(IDS)])
    assert not list(target.parent.iterdir())


def test_the_command(tmp_path: Path, demo_folder: Path) -> None:
    from click.testing import CliRunner

    from pythia_rt.cli import main

    text = tmp_path / "text"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 20, encoding="utf-8")
    arguments = ["convert", str(demo_folder), str(tmp_path / "flat"), "--calibrate", str(text)]
    done = CliRunner().invoke(main, [*arguments, "--calibrate-tokens", "64"])
    assert done.exit_code == 0, done.output
    assert "100%" in done.stderr
    assert "calibrated=64 tokens" in FlatFile(tmp_path / "flat").metadata["recipe"]
    done = CliRunner().invoke(main, [*arguments, "--force", "--format", "f32"])
    assert done.exit_code == 1
    assert "nothing to calibrate" in done.stderr
