"""Published values of Pythia beside ours: whoever has the network runs the real ones, and all of it
runs here, with a hub and documents of this machine and values that transformers made."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest
from local_hub import LocalHub
from published import (
    VARIABLE,
    Published,
    chosen,
    disagreement,
    disagreements,
    left_out,
    measure,
    measure_ours,
    published,
)
from suite import SUITE

MODELS = chosen(os.environ.get(VARIABLE, ""))
OPT_IN = pytest.mark.skip(
    reason=f"fetches models and data sets: {VARIABLE}=70m,410m ./scripts/test quick published"
)
FORMATS = ("f32", "q8")
MODEL = "someone/suite"
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
# The harness's own files of the tasks, in its folder, and their splits.
TASKS = {
    "lambada_openai": "lambada/lambada_openai.yaml",
    "piqa": "piqa/piqa.yaml",
    "winogrande": "winogrande/default.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "sciq": "sciq/sciq.yaml",
}
DOCS = 40


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("model", MODELS or [pytest.param("none", marks=OPT_IN)])
@pytest.mark.timeout(0)
def test_what_was_published(model: str, form: str) -> None:
    pytest.importorskip("lm_eval", reason="lm_eval cannot be installed here")
    rows = [row for row in published() if row.model == model]
    assert disagreements(rows, measure_ours(model, rows[0].revision, form, rows)) == []


def test_the_values() -> None:
    rows = published()
    metrics = [("lambada_openai", "perplexity"), *((task, "acc") for task in TASKS)]
    for model in dict.fromkeys(row.model for row in rows):
        mine = [row for row in rows if row.model == model]
        assert [(row.task, row.metric) for row in mine] == metrics
        assert {row.revision for row in mine} == {"step143000"} and all(row.source for row in mine)
    for row in rows:
        if row.metric == "acc":  # by the number of documents
            documents = row.value * (1 - row.value) / (row.stderr or 0) ** 2
            assert 950 < documents < 5300, row
    assert not {row.model for row in rows} & left_out().keys()


def test_who_asks_for_what_is_not_there_is_told() -> None:
    assert chosen(" 70m, 410m-deduped,") == [
        "EleutherAI/pythia-70m",
        "EleutherAI/pythia-410m-deduped",
    ]
    with pytest.raises(ValueError, match=r"pythia-160m is left out: a later run .* \.121"):
        chosen("70m,160m")
    with pytest.raises(ValueError, match=r"pythia-71m has no published values; .*: 70m, 410m"):
        chosen("71m")


def test_three_standard_errors_of_the_difference() -> None:
    row = Published("a", "main", "sciq", "acc", 0.5, 0.03, "a table")
    assert disagreement(row, 0.5 + 0.1499, 0.04) is None  # 3 * hypot(0.03, 0.04) is 0.15
    assert disagreement(row, 0.5 - 0.1499, 0.04) is None
    for value in (0.5 + 0.1501, 0.5 - 0.1501):
        sentence = disagreement(row, value, 0.04)
        assert sentence is not None and "0.15 apart, allowed 0.15" in sentence
    assert disagreement(row, 0.5, 0.0) is None
    alone = dataclasses.replace(row, stderr=None)  # ours stands for both
    assert disagreement(alone, 0.5 + 0.1272, 0.03) is None
    assert disagreement(alone, 0.5 + 0.1274, 0.03) is not None
    for value, stderr in ((math.nan, 0.1), (0.5, math.nan), (0.5, math.inf)):
        assert "is no measurement" in (disagreement(row, value, stderr) or "")
    with pytest.raises(KeyError):
        disagreements([row], {("piqa", "acc"): (0.5, 0.01)})


def write_documents(folder: Path, text: str) -> None:
    """DOCS documents of each task, in the columns of its data set, made of a text."""
    dice = random.Random(3)
    parts = (" ".join(part.split()) for part in text.replace(".\n", ". ").split(". "))
    sentences = [part for part in parts if 60 < len(part) < 200]
    easy = (re.match(r"(?:\S+ ){4,}?the(?= )", sentence) for sentence in sentences)
    documents: dict[str, list[dict[str, Any]]] = {task: [] for task in TASKS}
    # Last words that the small model may guess.
    documents["lambada_openai"] = [{"text": found[0]} for found in easy if found][:DOCS]
    for number in range(DOCS):
        true, *others = sentences[4 * number : 4 * number + 4]
        words = true.split(" ")
        middle = len(words) // 2
        begin, end = " ".join(words[:middle]), " ".join(words[middle : middle + 2])
        wrong = [" ".join(other.split(" ")[-2:]) for other in others]
        label = dice.randrange(2)
        two = [wrong[0], end] if label else [end, wrong[0]]
        documents["piqa"].append({"goal": begin, "sol1": two[0], "sol2": two[1], "label": label})
        first, second = (wrong[0].split(" ")[0], words[middle])[:: 1 if label else -1]
        documents["winogrande"].append(
            {
                "sentence": f"{begin} _ {' '.join(words[middle + 1 :])}",
                "option1": first,
                "option2": second,
                "answer": str(label + 1),
            }
        )
        place = dice.randrange(4)
        four = [*wrong[:place], end, *wrong[place:]]
        choices = {"text": four, "label": list("ABCD")}
        documents["arc_easy"].append(
            {"question": begin, "choices": choices, "answerKey": "ABCD"[place]}
        )
        given = {f"distractor{n + 1}": other for n, other in enumerate(wrong)}
        documents["sciq"].append(
            {"support": others[0], "question": begin, "correct_answer": end, **given}
        )
    for task, docs in documents.items():
        (folder / f"{task}.jsonl").write_text("\n".join(map(json.dumps, docs)))


@pytest.fixture
def manager(tmp_path: Path, technical_text: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The harness's tasks as they are, with documents of this machine."""
    lm_eval = pytest.importorskip("lm_eval", reason="lm_eval cannot be installed here")
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)  # takes seconds
    folder = tmp_path / "tasks"
    folder.mkdir()
    write_documents(folder, technical_text)
    for task, file in TASKS.items():
        own = Path(lm_eval.__file__).parent / "tasks" / file
        data = folder / f"{task}.jsonl"
        files = ", ".join(f"{split}: '{data}'" for split in ("train", "validation", "test"))
        kwargs = f"{{data_files: {{{files}}}, cache_dir: '{tmp_path / 'data sets'}'}}"
        (folder / f"{task}.yaml").write_text(
            f"include: {own}\ntask: {task}\n"
            f"dataset_path: json\ndataset_name: null\ndataset_kwargs: {kwargs}\n"
        )
    return TaskManager(include_path=str(folder), include_defaults=False)


def rows_of_transformers(checkpoint: Path, manager: Any) -> list[Published]:
    """Values as they are published: the harness's own backend made them, in float32."""
    pytest.importorskip("accelerate", reason="the harness's own backend needs accelerate")
    import torch

    blank = Published(MODEL, "step2048", "", "acc", 0, 0, "transformers")
    rows = [dataclasses.replace(blank, task=task) for task in TASKS]
    rows.insert(0, dataclasses.replace(rows[0], metric="perplexity"))
    arguments = f"pretrained={checkpoint},dtype=float32"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = measure("hf", arguments, rows, manager, device="cpu", batch_size=16)
    finally:
        torch.set_num_threads(before)
    return [
        dataclasses.replace(row, value=value, stderr=stderr)
        for row in rows
        for value, stderr in [found[row.task, row.metric]]
    ]


def test_the_whole_path_with_a_stand_in(local_hub: LocalHub, manager: Any) -> None:
    local_hub.add(MODEL, "step2048", SUITE / "step2048")
    local_hub.add(MODEL, "step8", SUITE / "step8")
    rows = rows_of_transformers(SUITE / "step2048", manager)
    assert all(row.value > 0 and (row.stderr or 0) > 0 for row in rows), rows
    for form in FORMATS:
        found = measure_ours(MODEL, "step2048", form, rows, manager)
        assert disagreements(rows, found) == []
        # Each value is held against its own measurement: shifted, it alone is refused.
        for number, row in enumerate(rows):
            value, stderr = found[row.task, row.metric]
            far = 3.01 * math.hypot(row.stderr or 0, stderr)
            for wrong in (value + far, value - far):
                shifted = list(rows)
                shifted[number] = dataclasses.replace(row, value=wrong)
                (sentence,) = disagreements(shifted, found)
                assert f"{row.task} {row.metric}: measured {value:.5g}" in sentence
    assert local_hub.sent("*.safetensors") == (SUITE / "step2048/model.safetensors").stat().st_size
    # Another checkpoint than the one that was published is found out.
    refused = disagreements(rows, measure_ours(MODEL, "step8", "q8", rows, manager))
    assert any("lambada_openai perplexity" in sentence for sentence in refused)
