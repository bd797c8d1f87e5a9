"""lm-evaluation-harness with our model, beside its own backend for transformers in float32."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from bench import harness
from bench.harness import MAX_LENGTH, decisions, likelihoods, run, run_all
from pythia_rt import Model
from pythia_rt.cli import main
from pythia_rt.model import DEMO_FOLDER

pytest.importorskip("lm_eval", reason="lm_eval cannot be installed here")
pytest.importorskip("accelerate", reason="the harness's own backend needs accelerate")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


@pytest.fixture(autouse=True)
def no_facts_about_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness lists all packages beside every result, which takes seconds."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)


def our_model(*arguments: Any, **options: Any) -> Any:
    from pythia_rt.lm_eval.model import PythiaRtLM

    return PythiaRtLM(*arguments, **options)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.write_chat_checkpoint(tmp_path_factory.mktemp("chat") / "demo", DEMO_FOLDER)


@pytest.fixture(scope="module")
def models(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    cache = tmp_path_factory.mktemp("cache")
    return {
        form: Model.from_pretrained(checkpoint, format=form, cache_dir=cache)
        for form in ("f32", "q8")
    }


@pytest.fixture(scope="module")
def tasks(
    models: dict[str, Model], technical_text: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    def greedy(prompt: str) -> str:
        return models["f32"].generate(prompt, temperature=0, max_new_tokens=4).text

    folder = tmp_path_factory.mktemp("tasks") / "of the text"
    return harness.write_tasks(folder, technical_text, 4, greedy)


@contextlib.contextmanager
def one_thread_of_torch() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_answers_are_those_of_transformers(
    checkpoint: Path, models: dict[str, Model], tasks: Path
) -> None:
    with one_thread_of_torch():
        truth = run_all(harness.reference(checkpoint), tasks)
    found = run_all(our_model(models["f32"], max_length=MAX_LENGTH), tasks)
    assert decisions(found) == decisions(truth)
    flags = [one[1] for docs in [truth["rt_ending"]] for doc in docs for one in doc]
    assert flags == [False, True, False, True]  # so that both kinds are compared
    np.testing.assert_allclose(likelihoods(found), likelihoods(truth), rtol=0, atol=1e-3)
    quantised = run_all(our_model(models["q8"], max_length=MAX_LENGTH), tasks)
    assert likelihoods(quantised) != likelihoods(truth)
    np.testing.assert_allclose(likelihoods(quantised), likelihoods(truth), rtol=0.02, atol=0.5)


def test_answers_are_those_of_the_model(models: dict[str, Model], tasks: Path) -> None:
    """To the bit: those of each document alone, without the harness's help."""
    model = models["q8"]
    found = run(our_model(model, max_length=MAX_LENGTH), tasks)
    docs = [json.loads(line) for line in (tasks / "docs.json").read_text().splitlines()]
    for doc, ending, letters, rolling, writing in zip(
        docs,
        *(found[task] for task in ("rt_ending", "rt_letters", "rt_rolling", "rt_writing")),
        strict=True,
    ):
        (pair,) = model.score_pairs([(doc["text"], doc["ending"])])
        assert ending == [(pair.total, pair.is_greedy)]
        asked = doc["text"] + "\nA, B, C or D?"
        pairs = [model.score_pairs([(asked, f" {letter}")])[0] for letter in "ABCD"]
        assert letters == [(each.total, each.is_greedy) for each in pairs]
        assert rolling == [model.perplexity(doc["page"], window=MAX_LENGTH).total]
        options = {"temperature": 0, "max_new_tokens": 20, "stop": [".", "\n\n"]}
        assert writing == [model.generate(doc["text"], **options).text]  # type: ignore[arg-type]


def request(*arguments: Any) -> Any:
    return SimpleNamespace(args=arguments)


def test_long_contexts_lose_their_beginning(models: dict[str, Model]) -> None:
    model = models["q8"]
    lm = our_model(model, max_length=20)
    context, continuation = list(range(5, 60)), [7, 8, 9]
    ((total, is_greedy),) = lm._loglikelihood_tokens([(None, context, continuation)])
    (pair,) = model.score_pairs([(context[-18:], continuation)])  # the last token is not read
    assert (total, is_greedy) == (pair.total, pair.is_greedy)
    with pytest.raises(ValueError, match="a continuation has 21 tokens, more than max_length 20"):
        lm._loglikelihood_tokens([(("a", "b"), [1], [2] * 21)])
    with pytest.raises(ValueError, match="a continuation has no tokens of its own: 'b'"):
        lm._loglikelihood_tokens([(("a", "b"), [1], [])])
    with pytest.raises(ValueError, match="20 tokens to write leave no room for a prompt"):
        lm.generate_until([request("a", {"max_gen_toks": 20})])
    (text,) = lm.generate_until([request("a b c " * 20, {"max_tokens": 4})])
    ids = lm.tok_encode("a b c " * 20)[-16:]
    assert text == model.generate(ids, temperature=0, max_new_tokens=4).text
    assert lm.loglikelihood([]) == lm.loglikelihood_rolling([]) == lm.generate_until([]) == []
    assert lm.loglikelihood_rolling([request("")]) == [0]


def test_sampled_texts_have_seeds(models: dict[str, Model]) -> None:
    lm = our_model(models["q8"], seed=5)
    asked = [request("The kernel", {"do_sample": True, "temperature": 0.9, "max_gen_toks": 12})] * 3
    found = lm.generate_until(asked)
    assert len(set(found)) == 3
    assert lm.generate_until(asked) == found
    options = {"temperature": 0.9, "top_p": 1.0, "max_new_tokens": 12}
    assert found[1] == models["q8"].generate("The kernel", seed=6, **options).text  # type: ignore[arg-type]
    for kwargs in ({"temperature": 0.0}, {"do_sample": False, "temperature": 2.0}, {}):
        (greedy,) = lm.generate_until([request("The kernel", kwargs | {"max_new_tokens": 9})])
        assert greedy == models["q8"].generate("The kernel", temperature=0, max_new_tokens=9).text
    with pytest.raises(ValueError, match="the task asks for num_beams=4, which this model does"):
        lm.generate_until([request("The kernel", {"num_beams": 4})])


def test_chats_are_text_in_the_format_of_the_model(models: dict[str, Model]) -> None:
    lm = our_model(models["q8"])
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello "}]
    assert lm.chat_template(True) == harness.TEMPLATE
    assert lm.chat_template(False) is None
    assert lm.apply_chat_template(turns[:1]) == "<|user|>\nHi\n<|assistant|>\n"
    begun = lm.apply_chat_template(turns, add_generation_prompt=False)
    assert begun == "<|user|>\nHi\n<|assistant|>\nHello"
    assert our_model(models["q8"], chat_format="alpaca").chat_template(True) == "alpaca"
    with pytest.raises(ValueError, match="there is no chat format 'none'"):
        our_model(models["q8"], chat_format="none").apply_chat_template(turns[:1])


def test_model_args(tmp_path: Path, demo_file: Callable[[str], Path]) -> None:
    from lm_eval.api.registry import get_model

    import pythia_rt.lm_eval  # noqa: F401, registers

    kind = get_model("pythia_rt")
    file = demo_file("q4")
    flat = kind.create_from_arg_string(
        f"pretrained={file},threads=1,kv_format=q8,max_length=64",
        {"batch_size": "auto", "device": "cpu", "max_batch_size": 8},
    )
    assert (flat.max_length, flat.model.kv_format, flat.model.threads) == (64, "q8", 1)
    assert flat.get_model_info()["model_format"] == "q4"
    assert (flat.prefix_token_id, flat.eot_token_id, flat.max_gen_toks) == (0, 0, 256)
    # The harness's own device is a wish: it stands where nobody named one.
    demo = kind.create_from_arg_string(
        f"pretrained=demo,cache_dir={tmp_path},device=cpu", {"device": "cuda:0", "batch_size": 1}
    )
    assert demo.model.device == "cpu"
    wish = kind.create_from_arg_string(f"pretrained={file}", {"device": "cuda:0"})
    assert wish.model.device in ("cpu", "cuda")
    assert demo.get_model_info()["model_format"] == "q8"
    for arguments, sentence in (
        (f"pretrained={file},format=q8", "format has no effect here"),
        (f"pretrained={file},step=1000", "step has no effect here"),
        ("pretrained=a/b,step=1000,revision=main", "step and revision both name a revision"),
        (f"pretrained={file},max_length=5000", "max_length must be from 1 to 2048 tokens"),
        (f"pretrained={file},device=tpu", "device must be one of cpu, cuda, auto"),
        (f"pretrained={file},dtype=float16", "there is no option 'dtype': .*the options are pre"),
        ("threads=2", "model_args names no model: give pretrained="),
    ):
        with pytest.raises(ValueError, match=sentence):
            kind.create_from_arg_string(arguments)


def test_step_is_a_revision(monkeypatch: pytest.MonkeyPatch, models: dict[str, Model]) -> None:
    asked: dict[str, Any] = {}

    def from_pretrained(name: str, **options: Any) -> Model:
        asked.update(options, name=name)
        return models["q8"]

    monkeypatch.setattr(Model, "from_pretrained", from_pretrained)
    our_model("EleutherAI/pythia-70m", step=3000, format="q4", device="cuda:0")
    assert asked["name"] == "EleutherAI/pythia-70m"
    assert (asked["step"], asked["format"], asked["device"]) == (3000, "q4", "cuda")


def test_the_entry_point_is_the_class() -> None:
    text = PYPROJECT.read_text(encoding="utf-8")
    found = re.search(r'entry-points\."lm_eval\.models"\]\n(\w+) = "([\w.]+):(\w+)"', text)
    assert found is not None
    name, module, kind = found.groups()
    assert (name, module, kind) == ("pythia_rt", "pythia_rt.lm_eval.model", "PythiaRtLM")
    from pythia_rt.lm_eval.model import PythiaRtLM

    assert PythiaRtLM.__module__ == module


def test_the_command_is_the_harness(
    demo_file: Callable[[str], Path],
    tasks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = [
        "lm-eval", "--model_args", f"pretrained={demo_file('q8')},threads=1",
        "--tasks", "rt_letters", "--include_path", tasks, "--output_path", tmp_path,
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["pythia-rt"])
    # Its index of its own tasks, 26,000 files, takes it a minute.
    from lm_eval.tasks import TaskManager

    few = functools.partial(TaskManager, include_defaults=False)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", few)
    with harness.offline():
        ran = CliRunner().invoke(main, [*map(str, arguments)], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    assert "rt_letters" in ran.output
    (written,) = tmp_path.rglob("results*.json")
    results = json.loads(written.read_text())
    assert results["config"]["model"] == "pythia_rt"
    assert results["config"]["model_format"] == "q8"
    assert results["config"]["model_device"].endswith("1 threads")


def test_without_the_harness_there_is_one_sentence() -> None:
    code = (
        "import sys; sys.modules['lm_eval'] = None; import importlib.util as u; f = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'lm_eval' else f(name, *a)\n"
        "from pythia_rt.cli import main; main(prog_name='pythia-rt')"
    )
    arguments = [sys.executable, "-c", code, "lm-eval", "--tasks", "sciq"]
    ran = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 1
    assert ran.stderr == (
        "Error: lm-evaluation-harness is not installed: install it with pip install "
        "'pythia_rt[lm-eval]'\n"
    )


def test_the_table(
    checkpoint: Path, tmp_path: Path, technical_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text"
    text.write_text(technical_text)
    arguments = ["harness", DEMO_FOLDER, "--text", text, "--docs", 3, "--formats", "q8"]
    monkeypatch.setattr(sys, "argv", [*map(str, arguments)])
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), one_thread_of_torch():
        harness.main()
    assert re.search(r"\| `q8` \| \d+ \| \S+ \| \S+ \| \d+ of \d+ \|$", shown.getvalue().strip())


@pytest.mark.parametrize("before", [False, True])
def test_data_sets_come_from_the_hub_again_afterwards(
    before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import config

    monkeypatch.setattr(config, "HF_HUB_OFFLINE", before)
    with pytest.raises(ValueError, match="mine"), harness.offline():
        assert config.HF_HUB_OFFLINE
        raise ValueError("mine")
    assert config.HF_HUB_OFFLINE is before
