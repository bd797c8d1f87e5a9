"""pythia_rt beside transformers in lm-evaluation-harness: python -m bench.harness.

Tasks of every kind are made of a text, a YAML and a json file each, so nothing is fetched. The
harness's own backend runs them in float32, one request at a time, and ours with files of several
formats; a table says how far the answers are apart. Needs the extra lm-eval, torch, transformers
and accelerate.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pythia_rt import Model
from pythia_rt.model import DEMO_FOLDER

MAX_LENGTH = 96  # tokens read at a time: some contexts are longer, and texts take several windows
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
ENDING = """
doc_to_text: "{{text}}"
doc_to_target: "{{ending}}"
output_type: loglikelihood
metric_list: [{metric: perplexity}, {metric: acc}]
"""
CHOICE = """
doc_to_text: "Question: {{text}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
output_type: multiple_choice
num_fewshot: 2
fewshot_split: test
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
LETTERS = """
doc_to_text: "{{text}}\\nA, B, C or D?"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: "{{label}}"
output_type: multiple_choice
metric_list: [{metric: acc}]
"""
ROLLING = """
doc_to_text: ""
doc_to_target: "{{page}}"
output_type: loglikelihood_rolling
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
"""
WRITING = """
doc_to_text: "{{text}}"
doc_to_target: "{{choices[label]}}"
output_type: generate_until
generation_kwargs: {until: [".", "\\n\\n"], max_gen_toks: 20, do_sample: false}
metric_list: [{metric: exact_match}]
"""
TASKS = {
    "rt_ending": ENDING,
    "rt_choice": CHOICE,
    "rt_letters": LETTERS,
    "rt_rolling": ROLLING,
    "rt_writing": WRITING,
}
CHATS = ("rt_choice", "rt_writing")


Answers = dict[str, list[Any]]  # of each task, to each document


def write_tasks(folder: Path, text: str, n_docs: int, greedy: Callable[[str], str]) -> Path:
    """Write the tasks, with so many documents each, into a new folder.

    `greedy` says how a model goes on: every other ending is the likeliest one.
    """
    folder.mkdir()
    parts = (" ".join(part.split()) for part in text.replace(".\n", ". ").split(". "))
    sentences = [part for part in parts if 60 < len(part) < 400]
    docs = []
    for i in range(n_docs):
        true, *others = sentences[5 * i : 5 * i + 5]
        words = true.split(" ")
        begin, end = (" ".join(half) for half in np.array_split(words, 2))
        choices = [" ".join(other.split(" ")[-3:]) for other in others[:3]]
        choices.insert(i % 4, end)
        docs.append(
            {
                "text": begin,
                "ending": greedy(begin) if i % 2 else " " + end,
                "choices": choices,
                "label": i % 4,
                "page": ". ".join([true, *others] if i % 2 else [true]),
            }
        )
    data = folder / "docs.json"
    data.write_text("\n".join(map(json.dumps, docs)))
    for name, task in TASKS.items():
        source = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: '{data}'}}}}\n"
        (folder / f"{name}.yaml").write_text(f"task: {name}\ntest_split: test\n{source}{task}")
    return folder


def write_chat_checkpoint(folder: Path, checkpoint: Path) -> Path:
    """A copy of a checkpoint with a chat template."""
    shutil.copytree(checkpoint, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": TEMPLATE}))
    return folder


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """The library of data sets, by which the harness loads its tasks, asks no hub in this block."""
    from datasets import config

    before = config.HF_HUB_OFFLINE  # read of the environment when it was imported
    config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def run(model: Any, folder: Path, tasks: Sequence[str] = tuple(TASKS), **options: Any) -> Answers:
    """What `model`, of the harness, answers."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    with offline():
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=list(tasks),
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            log_samples=True,
            bootstrap_iters=0,
            **options,
        )
    samples: Any = found["samples"]
    return {task: [doc["filtered_resps"] for doc in samples[task]] for task in tasks}


def run_all(model: Any, folder: Path) -> Answers:
    """The answers to all tasks, and to those that can be chats as chats."""
    as_chat = run(model, folder, CHATS, apply_chat_template=True, fewshot_as_multiturn=True)
    return run(model, folder) | {f"{task}, chat": found for task, found in as_chat.items()}


def reference(checkpoint: Path) -> Any:
    """The harness's backend for transformers, in float32, one request at a time."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=str(checkpoint),
        dtype="float32",
        device="cpu",
        batch_size=1,
        max_length=MAX_LENGTH,
    )


def likelihoods(answers: Answers) -> list[float]:
    """All of them, of tasks that ask for one of each document or each choice."""
    return [
        one[0] if isinstance(one, tuple | list) else one
        for task, docs in answers.items()
        if not task.startswith("rt_writing")
        for doc in docs
        for one in doc
    ]


def decisions(answers: Answers) -> list[Any]:
    """What each document's answer decides: the choice and what is greedy, or the text."""
    found: list[Any] = []
    for task, docs in answers.items():
        for doc in docs:
            if task.startswith("rt_writing"):
                found.append(doc[0])
            elif task != "rt_rolling":
                found.append(int(np.argmax([one[0] for one in doc])))
                found += [bool(one[1]) for one in doc]
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=DEMO_FOLDER)
    parser.add_argument("--text", type=Path, required=True, help="what the tasks are made of")
    parser.add_argument("--docs", type=int, default=20, help="documents of each task")
    parser.add_argument("--formats", nargs="+", default=["f32", "q8", "q4"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        checkpoint = write_chat_checkpoint(scratch / "checkpoint", arguments.checkpoint)
        print(table(scratch, checkpoint, arguments))


def table(scratch: Path, checkpoint: Path, arguments: argparse.Namespace) -> str:
    """The table, in Markdown."""
    from pythia_rt.lm_eval.model import PythiaRtLM

    models = {
        form: Model.from_pretrained(checkpoint, format=form, cache_dir=scratch / "cache")
        for form in arguments.formats
    }
    first = next(iter(models.values()))
    text = arguments.text.read_text(encoding="utf-8")

    def greedy(prompt: str) -> str:
        return first.generate(prompt, temperature=0, max_new_tokens=4).text

    tasks = write_tasks(scratch / "tasks", text, arguments.docs, greedy)
    truth = run_all(reference(checkpoint), tasks)
    lines = [
        "| format | log-likelihoods | largest difference | mean | same decisions |",
        "| --- | --- | --- | --- | --- |",
    ]
    for form, model in models.items():
        found = run_all(PythiaRtLM(model, max_length=MAX_LENGTH), tasks)
        apart = np.abs(np.subtract(likelihoods(found), likelihoods(truth)))
        same = [a == b for a, b in zip(decisions(found), decisions(truth), strict=True)]
        lines.append(
            f"| `{form}` | {len(apart)} | {apart.max():.2g} | {apart.mean():.2g} | "
            f"{sum(same)} of {len(same)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
