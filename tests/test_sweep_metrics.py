"""What sweeps measure, beside slow and obvious computations from logits."""

from __future__ import annotations

import itertools
import json
import math
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from suite import SUITE
from sweeps import TEXT, lines, save, write_suite

from pythia_rt import Model
from pythia_rt.sweeps import (
    METRICS,
    Continuations,
    Divergence,
    Function,
    Given,
    Harness,
    HeadScores,
    LastWords,
    Measured,
    Memorisation,
    Metric,
    Ngram,
    Perplexity,
    TokenStats,
    Value,
    read_metrics,
)

Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Model]:
    suite = write_suite(tmp_path_factory.mktemp("models") / "suite", (0, 1))
    cache = tmp_path_factory.mktemp("cache")
    return [
        Model.from_pretrained(suite / name, format="f32", cache_dir=cache)
        for name in ("step0", "step1")
    ]


def log_softmax(logits: NDArray[Any]) -> Floats:
    values = logits.astype(np.float64)
    centred = values - values.max(axis=-1, keepdims=True)
    found: Floats = centred - np.log(np.exp(centred).sum(axis=-1, keepdims=True))
    return found


def numbers(found: Measured) -> dict[str, float]:
    return {value.metric: value.value for value in found.values}


def continuation(model: Model, context: str, text: str) -> tuple[float, bool]:
    """ln of the probability of a text's tokens after a context, and whether all are likeliest."""
    assert model.tokenizer is not None
    whole = model.tokenizer.encode(context + text)
    first = len(model.tokenizer.encode(context))
    log_p = log_softmax(model.logits(whole))
    total = sum(log_p[i - 1, whole[i]] for i in range(first, len(whole)))
    likeliest = all(log_p[i - 1].argmax() == whole[i] for i in range(first, len(whole)))
    return float(total), likeliest


def greedy(model: Model, prompt: list[int], length: int) -> list[int]:
    """The likeliest tokens one by one, never one that ends texts."""
    ids = list(prompt)
    for _ in range(length):
        row = model.logits(ids)[-1].copy()
        row[model.spec["eos_ids"]] = -np.inf
        ids.append(int(row.argmax()))
    return ids[len(prompt) :]


def test_perplexity_is_that_of_the_model(models: list[Model]) -> None:
    found = Perplexity(TEXT, window=64, stride=32).measure(models[0], None)
    truth = models[0].perplexity(TEXT, window=64, stride=32)
    assert numbers(found)["perplexity"] == pytest.approx(truth.perplexity, rel=1e-12)
    ids = np.arange(1, 60, dtype=np.uint16)
    content = save(ids)
    nats = Perplexity(content).measure(models[0], None).values[1]
    losses = -models[0].score([ids])[0].log_probabilities.astype(np.float64)
    assert nats.n == 58 and nats.value == pytest.approx(losses.mean(), rel=1e-12)
    assert nats.stderr == pytest.approx(losses.std(ddof=1) / math.sqrt(58), rel=1e-9)


def test_token_stats(models: list[Model]) -> None:
    ids = np.random.default_rng(2).integers(1, 4096, 11)
    found = TokenStats(save(ids), window=4).measure(models[0], None)
    expected = []
    for start in (0, 4, 8):
        window = ids[start : start + 4]
        for row, token in zip(log_softmax(models[0].logits(window)), window[1:], strict=False):
            entropy = -sum(math.exp(a) * a for a in row)
            expected.append((row[token], entropy, sum(a > row[token] for a in row), token))
    columns = ("log_probability", "entropy", "rank", "token")
    for name, column in zip(columns, zip(*expected, strict=True), strict=True):
        assert found.arrays[name] == pytest.approx(np.array(column), rel=1e-6)
    log_p, entropies, ranks, _ = (np.array(column) for column in zip(*expected, strict=True))
    assert numbers(found) == pytest.approx(
        {
            "surprisal": -log_p.mean(),
            "entropy": entropies.mean(),
            "median_rank": np.median(ranks),
            "top1": (ranks == 0).mean(),
        }
    )


def test_head_scores_see_induction_heads_form(tmp_path: Path) -> None:
    suite = {
        step: Model.from_pretrained(SUITE / f"step{step}", format="f32", cache_dir=tmp_path)
        for step in (0, 2048)
    }
    metric = HeadScores(rows=2, length=16, low=512)  # the ids that repeat in its training
    found = {step: metric.measure(model, None) for step, model in suite.items()}
    assert numbers(found[2048])["induction_head"] > 0.4 > 0.1 > numbers(found[0])["induction_head"]
    draw = np.random.default_rng(0).integers(512, 640, (2, 16), dtype=np.int32)
    texts = list(np.concatenate([draw, draw], axis=1))
    patterns = suite[2048].run(texts, capture=["layers.*.pattern"], logits=None)
    for layer in range(3):
        pattern = patterns[f"layers.{layer}.pattern"]
        behind = np.mean([p[:, np.arange(1, 32), np.arange(31)] for p in pattern], axis=(0, 2))
        assert found[2048].arrays["previous"][layer] == pytest.approx(behind, rel=1e-4)


def test_memorisation_is_the_share_of_greedy_tokens(models: list[Model]) -> None:
    model = models[0]
    random = np.random.default_rng(0)
    rows = random.integers(1, 4096, (5, 12))
    rows[0, 6:12] = greedy(model, rows[0, :6].tolist(), 6)  # known by heart
    rows[1, 6:9] = greedy(model, rows[1, :6].tolist(), 3)  # its first half at least
    scores = [
        np.mean(np.array(greedy(model, row[:6].tolist(), 6)) == row[6:]).item() for row in rows
    ]
    assert scores[0] == 1 and 0.5 <= scores[1] < 1
    found = Memorisation(save(rows.astype(np.uint16)), prompt=6, length=6).measure(model, None)
    assert found.arrays["score"].tolist() == scores
    assert numbers(found) == pytest.approx(
        {"memorisation": np.mean(scores), "extractable": np.mean(np.array(scores) == 1)}
    )
    # Rows as long as the data's, of which the first tokens count.
    longer = np.concatenate([rows, rows], axis=1)
    again = Memorisation(save(longer), prompt=6, length=6, max_rows=2).measure(model, None)
    assert again.arrays["score"].tolist() == scores[:2]


def test_memorisation_never_writes_the_token_that_ends_texts(models: list[Model]) -> None:
    model = models[0]
    end = model.spec["eos_ids"][0]
    rows = np.array([[5, 6, 7, *greedy(model, [5, 6, 7], 4)], [1, 2, 3, end, end, end, end]])
    found = Memorisation(save(rows), prompt=3, length=4).measure(model, None)
    assert found.arrays["score"].tolist() == [1.0, 0.0]


def test_memorisation_of_a_text_is_of_its_rows(models: list[Model]) -> None:
    model = models[0]
    assert model.tokenizer is not None
    found = Memorisation(TEXT, prompt=8, length=4).measure(model, None)
    assert found.values[0].n == len(model.tokenizer.encode(TEXT)) // 12


def test_last_words(models: list[Model]) -> None:
    model = models[0]
    texts = ["The kernel reads a page", "It writes the page again", "A tile of weights"]
    found = numbers(LastWords(lines(*({"text": t} for t in texts))).measure(model, None))
    judged = [
        continuation(model, text.rpartition(" ")[0], " " + text.rpartition(" ")[2])
        for text in texts
    ]
    assert found["last_words"] == np.mean([right for _, right in judged])
    expected = math.exp(-np.mean([total for total, _ in judged]))
    assert found["word_perplexity"] == pytest.approx(expected, rel=1e-5)


def test_continuations(models: list[Model]) -> None:
    model = models[0]
    asked = [
        {"context": "The kernel", "continuations": [" reads", " writes a page"], "answer": 1},
        {"context": "A page", "continuations": [" is read", " a", " of memory"], "answer": 0},
        {"context": "It", "continuations": [" reads the whole page", " is"], "answer": 1},
    ]
    judged = [
        np.array([continuation(model, str(item["context"]), text)[0] for text in texts])
        for item in asked
        for texts in [item["continuations"]]
        if isinstance(texts, list)
    ]
    found = Continuations(lines(*asked)).measure(model, None)
    assert found.arrays["loglikelihoods"] == pytest.approx(np.concatenate(judged), rel=1e-5)
    assert found.arrays["counts"].tolist() == [2, 3, 2]
    lengths = [[5, 13], [7, 1, 9], [20, 2]]
    answers = [1, 0, 1]
    assert numbers(found) == pytest.approx(
        {
            "accuracy": np.mean([t.argmax() == a for t, a in zip(judged, answers, strict=True)]),
            "acc_norm": np.mean(
                [
                    (t / np.array(n)).argmax() == a
                    for t, n, a in zip(judged, lengths, answers, strict=True)
                ]
            ),
            "loglikelihood": np.mean([t[a] for t, a in zip(judged, answers, strict=True)]),
        },
        rel=1e-5,
    )
    bare = [{"context": "A", "continuations": [" b", " c"]}]
    assert list(numbers(Continuations(lines(*bare)).measure(model, None))) == ["loglikelihood"]


def kl(p: Floats, q: Floats) -> float:
    return float(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


def test_divergence_is_that_of_both_distributions(models: list[Model]) -> None:
    ids = np.random.default_rng(1).integers(1, 4096, 9)
    found = Divergence(save(ids), to_step=1, window=4).measure(models[0], models[1])
    expected = []
    for start in range(0, 9, 4):
        window = ids[start : start + 4]
        ours, theirs = (np.exp(log_softmax(model.logits(window))) for model in models)
        for q, p in zip(ours, theirs, strict=True):
            expected.append((kl(p, q), (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2))
    assert found.arrays["kl"] == pytest.approx([a for a, _ in expected], rel=1e-9)
    assert found.arrays["js"] == pytest.approx([b for _, b in expected], rel=1e-9)
    assert list(numbers(found)) == ["kl_to_step1", "js_to_step1"]
    same = Divergence(save(ids), to_step=1).measure(models[1], models[1])
    assert max(numbers(same).values()) < 1e-14


@pytest.mark.parametrize("order", [1, 2])
def test_distance_to_counts(models: list[Model], order: int) -> None:
    ids = [3, 5, 3, 9, 7, 3]
    counted = [3, 5, 3, 5, 5, 9, 3, 9]
    found = Ngram(save(np.array(ids)), save(np.array(counted)), order=order, window=4).measure(
        models[0], None
    )
    expected = []
    for place, token in enumerate(ids):
        window = ids[place // 4 * 4 : place + 1]
        q = np.exp(log_softmax(models[0].logits(window)))[-1]
        following = [b for a, b in itertools.pairwise(counted) if a == token]
        counts = Counter(following if order == 2 else counted)
        if not counts:
            continue
        p = np.zeros(4096)
        for key, count in counts.items():
            p[key] = count / counts.total()
        expected.append((kl(p, q), (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2))
    assert len(expected) == (6 if order == 1 else 5)
    assert found.arrays["kl"] == pytest.approx([a for a, _ in expected], rel=1e-5)
    assert found.arrays["js"] == pytest.approx([b for _, b in expected], rel=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_harness_tasks_are_the_harness_s(models: list[Model], tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm_eval cannot be installed here")
    (tmp_path / "docs.jsonl").write_text(
        lines(
            {"question": "The kernel", "choices": ["reads", "writes"], "answer": 0},
            {"question": "A page", "choices": ["is read", "of memory"], "answer": 1},
        )
    )
    (tmp_path / "pages.yaml").write_text(
        f"""task: pages
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "docs.jsonl"}}}, cache_dir: {tmp_path}}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
    )
    metric = Harness("pages", include=str(tmp_path))
    metric.check()
    found = metric.measure(models[0], None)
    asked = [
        {"context": "The kernel", "continuations": [" reads", " writes"], "answer": 0},
        {"context": "A page", "continuations": [" is read", " of memory"], "answer": 1},
    ]
    truth = numbers(Continuations(lines(*asked)).measure(models[0], None))
    assert numbers(found) == {"pages.acc": truth["accuracy"], "pages.acc_norm": truth["acc_norm"]}
    assert {value.n for value in found.values} == {2}
    Harness(f"sciq+{tmp_path / 'pages.yaml'}", include=str(tmp_path)).check()
    with pytest.raises(ValueError, match=r"no task 'pagess': did you mean pages"):
        Harness("pages+pagess", include=str(tmp_path)).check()
    with pytest.raises(ValueError, match=r"nowhere is no folder: include names one with tasks"):
        Harness("sciq", include=str(tmp_path / "nowhere")).check()


def length(model: Model) -> int:
    return int(model.spec["n_layers"])


def test_functions(models: list[Model]) -> None:
    assert Function(length).measure(models[0], None).values == [Value("length", 2.0)]
    given = Function(lambda model: {"a": 1, "b": [1.0, 2.0]}).measure(models[0], None)
    assert given.values == [Value("a", 1.0)] and given.arrays["b"].tolist() == [1, 2]
    own = Measured([Value("x", 1.0, 0.5, 3)])
    assert Function(lambda model: own).measure(models[0], None) is own
    with pytest.raises(ValueError, match="gave str: a metric gives a number, a mapping"):
        Function(lambda model: "much").measure(models[0], None)
    assert Function(length).options() != Function(save).options()


@pytest.mark.parametrize("kind", METRICS, ids=lambda kind: kind.name)
def test_metrics_travel_and_are_known_by_what_they_ask(kind: type[Metric], tmp_path: Path) -> None:
    if kind is Harness:
        pytest.importorskip("lm_eval", reason="lm_eval cannot be installed here")
    (tmp_path / "a.txt").write_text(TEXT)
    text = {
        "ngram": f"ngram:{tmp_path / 'a.txt'},counts={tmp_path / 'a.txt'}",
        "divergence": f"divergence:{tmp_path / 'a.txt'},to_step=3",
        "harness": "harness:sciq+piqa,limit=3",
        "head_scores": "head_scores:3,length=16",
    }.get(kind.name, f"{kind.name}:{tmp_path / 'a.txt'}")
    [metric] = read_metrics([text])
    assert type(metric) is kind and kind.__doc__
    assert pickle.loads(pickle.dumps(metric)).options() == metric.options()
    json.dumps(metric.options(), allow_nan=False)
    assert str(tmp_path) not in json.dumps(metric.options())


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        (Memorisation(save(np.ones((3, 20), int))), "needs rows of at least 64"),
        (Memorisation("Few words."), "needs rows of at least 64"),
        (LastWords(lines({"words": "a b"})), "line 1 of text is no JSON object with text"),
        (LastWords(lines({"text": "alone"})), "has a text without a last word"),
        (LastWords("\n\n"), "text has no lines"),
        (Continuations(lines({"context": "a", "continuations": " b"})), "no list of texts"),
        (
            Continuations(lines({"context": "a", "continuations": [" b"], "answer": 1})),
            "has the answer 1 for 1 continuations",
        ),
        (Perplexity(save(np.array([1]))), "less than two tokens"),
        (HeadScores(length=300), "does not fit twice into the context of 512"),
        (HeadScores(low=4096), "no ids from low 4096 to below high"),
        (TokenStats(save(np.array([1]))), "less than two tokens"),
        (Perplexity(Given("x.npy", b"\x93NUMPY nothing")), ""),
        (Perplexity(save(np.array([{"a": 1}], object))), "allow_pickle=False"),
    ],
)
def test_bad_texts_are_one_sentence(models: list[Model], metric: Metric, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        metric.measure(models[0], None)
    assert sentence in str(caught.value)


def test_texts_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="is empty"):
        Perplexity("")
    with pytest.raises(FileNotFoundError):
        read_metrics(["perplexity:nothing-here.txt"])
