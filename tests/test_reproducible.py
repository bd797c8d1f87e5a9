"""The contract: the same file and tokens give the same logits, bit for bit.

Whatever the chunks the prompt came in, the batch it ran in, the number of threads and the
instruction set. One answer (scalar, one thread, the whole prompt) is computed per weight and cache
format; everything else is held against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
import pytest
from checkpoints import make_config, write_checkpoint
from drawn import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pythia_rt import _core
from pythia_rt.convert import FlatFile, convert

Logits = NDArray[np.float32]
Tokens = NDArray[np.int32]

# Longer than what one pass takes (256 rows), so that the core cuts it up by itself as well.
LENGTHS = (1, 5, 64, 130, 270)
VOCABULARY = 96

# Two shapes with what can go wrong: a head that is no power of two and a width that is no multiple
# of a group; an odd number of heads, and rows and an MLP that fill no block.
SHAPES = {
    "80 wide head": make_config(heads=1, head_dim=80, intermediate_size=192, vocab_size=VOCABULARY),
    "odd sizes": make_config(
        heads=3,
        head_dim=24,
        intermediate_size=200,
        vocab_size=VOCABULARY + 1,
        use_parallel_residual=False,
        hidden_act="gelu_fast",
        rotary_pct=1.0,
    ),
}


@pytest.fixture(scope="module", params=SHAPES)
def flat_file(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], FlatFile]:
    """A function from a weight format to a flat file, every linear layer in that format."""
    folder = tmp_path_factory.mktemp("reproducible")
    source = write_checkpoint(folder / "source", SHAPES[request.param], seed=3)

    @lru_cache
    def find(form: str) -> FlatFile:
        path = folder / f"{form}.safetensors"
        return FlatFile(convert(source, path, format=form, embed=form, head=form))

    return find


@pytest.fixture(scope="module")
def answer(flat_file: Callable[[str], FlatFile]) -> Callable[[str, str], list[Logits]]:
    """A function from a weight and a cache format to the logits of every prompt."""

    @lru_cache
    def find(form: str, kv_format: str) -> list[Logits]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHIA_RT_ISA", "scalar")
            model = make_model(flat_file(form))
        return [session(model, kv_format).logits(prompt) for prompt in PROMPTS]

    return find


def make_prompts() -> list[Tokens]:
    generator = np.random.default_rng(5)
    return [generator.integers(0, VOCABULARY, length, np.int32) for length in LENGTHS]


PROMPTS = make_prompts()
LONGEST = PROMPTS[-1]


def make_model(file: FlatFile, threads: int = 1) -> _core.Model:
    return _core.Model(dict(file.spec), file.formats, file.tensors, threads=threads)


def session(model: _core.Model, kv_format: str) -> _core.Session:
    return _core.Session(model, capacity=LENGTHS[-1], kv_format=kv_format)


def pieces(tokens: Tokens, size: int) -> Iterator[Tokens]:
    for start in range(0, len(tokens), size):
        yield tokens[start : start + size]


def assert_same(ours: Logits, expected: Logits) -> None:
    """Compare bits, so that the zeros' signs count."""
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(ours.view(np.uint32), expected.view(np.uint32))


def run_batch(model: _core.Model, kv_format: str, cuts: list[int]) -> list[Logits]:
    """Run every prompt in two shared passes, prompt i cut after its first cuts[i] tokens."""
    sessions = [session(model, kv_format) for _ in PROMPTS]
    logits: list[list[Logits]] = [[] for _ in PROMPTS]
    for half in (
        [prompt[:cut] for prompt, cut in zip(PROMPTS, cuts, strict=True)],
        [prompt[cut:] for prompt, cut in zip(PROMPTS, cuts, strict=True)],
    ):
        present = [i for i, part in enumerate(half) if len(part)]
        results = _core.forward([sessions[i] for i in present], [half[i] for i in present])
        for i, result in zip(present, results, strict=True):
            logits[i].append(result)
    return [np.concatenate(parts) for parts in logits]


def test_chunks_do_not_matter(
    isa: str,
    weight_format: str,
    kv_format: str,
    flat_file: Callable[[str], FlatFile],
    answer: Callable[[str, str], list[Logits]],
) -> None:
    model = make_model(flat_file(weight_format))
    assert model.isa == isa
    for size, index in ((1, 3), (7, 3), (64, 4), (LENGTHS[4], 4)):
        running = session(model, kv_format)
        parts = [running.logits(part) for part in pieces(PROMPTS[index], size)]
        assert_same(np.concatenate(parts), answer(weight_format, kv_format)[index])


def test_decoding_is_prefill(
    isa: str,
    weight_format: str,
    kv_format: str,
    flat_file: Callable[[str], FlatFile],
    answer: Callable[[str, str], list[Logits]],
) -> None:
    """Greedy decoding, step by step: what it wrote, given as a prompt, has the same logits."""
    model = make_model(flat_file(weight_format))
    sampler = _core.Sampler(
        n_tokens=VOCABULARY,
        temperature=0,
        top_k=0,
        top_p=1,
        min_p=0,
        typical_p=1,
        repetition_penalty=1,
        presence_penalty=0,
        frequency_penalty=0,
        logit_bias={},
        seed=0,
    )
    running = session(model, kv_format)
    prompt = PROMPTS[2]
    running.prefill(prompt)
    written, kept = [], []
    for _ in range(20):
        written.append(running.step(sampler)[0])
        kept.append(running.last_logits)  # what the token was sampled from
    assert_same(kept[0], answer(weight_format, kv_format)[2][-1])
    whole = np.concatenate([prompt, np.array(written[:-1], np.int32)])
    again = session(model, kv_format).logits(whole)
    assert_same(np.stack(kept), again[len(prompt) - 1 :])


def test_the_batch_does_not_matter(
    isa: str,
    weight_format: str,
    kv_format: str,
    flat_file: Callable[[str], FlatFile],
    answer: Callable[[str, str], list[Logits]],
) -> None:
    model = make_model(flat_file(weight_format))
    results = run_batch(model, kv_format, [0, 0, 0, 0, 0])
    for ours, expected in zip(results, answer(weight_format, kv_format), strict=True):
        assert_same(ours, expected)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_do_not_matter(
    isa: str,
    weight_format: str,
    kv_format: str,
    threads: int,
    flat_file: Callable[[str], FlatFile],
    answer: Callable[[str, str], list[Logits]],
) -> None:
    model = make_model(flat_file(weight_format), threads)
    assert model.threads == threads
    expected = answer(weight_format, kv_format)
    for ours, theirs in zip(run_batch(model, kv_format, [0, 5, 3, 65, 200]), expected, strict=True):
        assert_same(ours, theirs)


@settings(
    max_examples=examples(25),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    isa_name=st.sampled_from(_core.isa_names()),
    form=st.sampled_from(_core.format_names()),
    cache_form=st.sampled_from(_core.kv_format_names()),
    threads=st.integers(1, 8),
    start=st.integers(0, LENGTHS[-1] - 1),
    cuts=st.tuples(*(st.integers(0, length) for length in LENGTHS)),
    chunk=st.integers(1, LENGTHS[-1]),
)
def test_nothing_matters_in_any_combination(
    monkeypatch: pytest.MonkeyPatch,
    flat_file: Callable[[str], FlatFile],
    answer: Callable[[str, str], list[Logits]],
    isa_name: str,
    form: str,
    cache_form: str,
    threads: int,
    start: int,
    cuts: tuple[int, ...],
    chunk: int,
) -> None:
    monkeypatch.setenv("PYTHIA_RT_ISA", isa_name)
    model = make_model(flat_file(form), threads)
    expected = answer(form, cache_form)
    for ours, theirs in zip(run_batch(model, cache_form, list(cuts)), expected, strict=True):
        assert_same(ours, theirs)
    running = session(model, cache_form)
    running.prefill(LONGEST[::-1].copy())
    running.rewind(0)  # nothing of what was there before may remain
    if start:
        running.prefill(LONGEST[:start])
    parts = [running.logits(part) for part in pieces(LONGEST[start:], chunk)]
    assert_same(np.concatenate(parts), expected[-1][start:])
