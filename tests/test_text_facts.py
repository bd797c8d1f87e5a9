"""What ends a text, what is suggested to sample with, and how the flat file keeps such facts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from convert_sources import VOCAB, make_config, make_tokenizer, write_checkpoint
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from test_flatfile import join, split
from tokenizer_folders import edit, template, token

import pythia_rt
from bench.peers.quiet import without_bars
from pythia_rt import Model, Sampling
from pythia_rt.cli import main
from pythia_rt.convert import CheckpointError, FlatFile, FlatFileError, convert
from pythia_rt.convert.flatfile.text_facts import no_facts, validate_facts
from pythia_rt.convert.text.text_files import resolve_end_ids
from pythia_rt.info import describe, lines
from pythia_rt.model import DEMO_FOLDER
from pythia_rt.suggested import suggested_sampling

INF = float("inf")
# By name: eos_token_id of config.json ("no" for none at all), and generation_config.json.
ENDS: dict[str, tuple[Any, Any]] = {
    "no file": (5, None),
    "no file, a list": ([5, 7], None),
    "no file, null": (None, None),
    "no file, nothing": ("no", None),
    "no file, none": ([], None),
    "no file, one beyond the rows": ([5, 9999], None),
    "one": (0, {"eos_token_id": 5}),
    "a list": (0, {"eos_token_id": [5, 7]}),
    "the same twice": (0, {"eos_token_id": [5, 5]}),
    "null": (5, {"eos_token_id": None}),
    "nothing": (5, {"do_sample": True}),
    "empty": (5, {}),
    "none": (5, {"eos_token_id": []}),
    "beyond the rows": (0, {"eos_token_id": [5, 9999]}),
    "below 0": (0, {"eos_token_id": [-1, 5]}),
    "from the config": (5, {"_from_model_config": True, "eos_token_id": 7}),
}


def write_source(folder: Path, eos: Any, generation: Any) -> Path:
    config = make_config(eos_token_id=eos, vocab_size=VOCAB)
    if eos == "no":
        del config["eos_token_id"]
    write_checkpoint(folder, config=config)
    if generation is not None:
        content = generation if isinstance(generation, str) else json.dumps(generation)
        (folder / "generation_config.json").write_text(content)
    return folder


def their_ends(folder: Path) -> list[int]:
    transformers = pytest.importorskip("transformers")
    with without_bars():
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    ends = model.generation_config.eos_token_id
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    return sorted({i for i in ends if 0 <= i < VOCAB})


@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("shown", [False, True])
def test_bars_are_as_before_once_transformers_has_loaded(wanted: bool, shown: bool) -> None:
    from huggingface_hub import utils as hub
    from transformers.utils import logging

    def tell(wanted: bool, shown: bool) -> None:
        (logging.enable_progress_bar if wanted else logging.disable_progress_bar)()
        (hub.enable_progress_bars if shown else hub.disable_progress_bars)()

    def told() -> tuple[bool, bool]:
        return logging.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()

    before = told()
    try:
        tell(wanted, shown)
        with without_bars():
            assert told() == (False, False)
        assert told() == (wanted, shown)
    finally:
        tell(*before)


@pytest.mark.parametrize("kind", ENDS)
def test_end_tokens_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    folder = write_source(tmp_path / "source", *ENDS[kind])
    file = FlatFile(convert(folder, tmp_path / "flat"))
    assert sorted(file.spec["eos_ids"]) == their_ends(folder)


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "\x00"])
def test_a_damaged_generation_config_is_left_out(tmp_path: Path, content: str) -> None:
    folder = write_source(tmp_path / "source", 5, content)
    with pytest.warns(UserWarning, match=r"generation_config\.json .*until then it is left out"):
        file = FlatFile(convert(folder, tmp_path / "flat"))
    assert file.spec["eos_ids"] == [5]
    assert "generation_config.json" not in file.files


@pytest.mark.parametrize("value", ["5", True, [[5]], {"a": 1}, 5.5, [None], float("nan")])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_what_is_no_end_token_is_refused(name: str, value: Any) -> None:
    config = {"eos_token_id": value}
    files = {} if name == "config.json" else {name: json.dumps(config).encode()}
    with pytest.raises(CheckpointError, match=rf"{name} has no valid eos_token_id: set it"):
        resolve_end_ids(files, config if not files else {})


def demo(folder: Path, **files: Any) -> Path:
    """Return a copy of the demo with `files` (by their name without .json) beside it."""
    folder.mkdir()
    for path in DEMO_FOLDER.iterdir():
        if path.suffix in (".json", ".safetensors"):
            (folder / path.name).write_bytes(path.read_bytes())
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Model:
    """The demo with a generation_config.json, and a BOS token before each text."""
    temporary = tmp_path_factory.mktemp("told")
    tokens = model.generate("The kernel", temperature=0, max_new_tokens=12).tokens
    suggested = {
        "eos_token_id": [0, tokens[5]], "do_sample": True, "temperature": 0.5, "top_k": 40,
        "top_p": 1.5, "max_new_tokens": 9, "num_beams": 4, "min_p": None,
    }  # fmt: skip
    folder = demo(temporary / "source", generation_config=suggested)
    edit(folder / "tokenizer.json", template("<|endoftext|> $A"))
    edit(
        folder / "tokenizer_config.json",
        lambda data: data.update(
            tokenizer_class="PreTrainedTokenizerFast", chat_template="{{ x }}"
        ),
    )
    return Model.load(convert(folder, temporary / "flat", format="q8"))


def test_every_end_token_ends_the_text(told: Model) -> None:
    result = told.generate([511, 963], temperature=0, max_new_tokens=40)
    assert result.finish_reason == "eos"
    assert result.tokens[-1] in told.spec["eos_ids"]
    assert not set(result.tokens[:-1]) & set(told.spec["eos_ids"])


def test_suggestions_are_used_only_when_asked_for(told: Model) -> None:
    suggested = told.suggested_sampling
    assert suggested == Sampling(temperature=0.5, top_k=40, max_new_tokens=9)
    assert suggested.top_p == Sampling().top_p  # 1.5 is no value of ours
    one = told.generate("The", suggested, seed=1)
    assert one.tokens == told.generate("The", suggested, seed=1).tokens
    assert len(one.tokens) <= 9
    assert len(told.generate("The", seed=1, max_new_tokens=20, stop_token_ids=[]).tokens) != 9
    assert told.generate("The", suggested, max_new_tokens=2).timing.new_tokens <= 2


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {}),
        ({"do_sample": False}, {"temperature": 0}),
        ({"do_sample": False, "temperature": 0.9}, {"temperature": 0}),
        ({"do_sample": True, "temperature": 0.9}, {"temperature": 0.9}),
        ({"temperature": "hot", "top_k": True, "top_p": [1]}, {}),
        ({"top_k": 0, "typical_p": 0.3, "repetition_penalty": 1.1, "min_p": 0.05}, None),
    ],
)
def test_what_a_generation_config_suggests(
    tmp_path: Path, config: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    folder = write_source(tmp_path / "source", 5, config)
    model = Model.load(convert(folder, tmp_path / "flat"))
    assert model.suggested_sampling == Sampling(**(config if expected is None else expected))


def test_an_old_config_may_suggest_itself(tmp_path: Path) -> None:
    config = make_config(temperature=0.3, do_sample=True)
    folder = write_checkpoint(tmp_path / "source", config=config)
    file = FlatFile(convert(folder, tmp_path / "flat"))
    assert file.text["sampling"] == {"temperature": 0.3}


@given(
    st.dictionaries(
        st.sampled_from(["temperature", "top_k", "top_p", "max_new_tokens"]),
        st.integers() | st.floats(allow_nan=False),
    )
)
def test_any_suggestion_is_a_sampling(values: dict[str, float]) -> None:
    sampling = suggested_sampling(values)
    for name, value in values.items():
        taken, default = getattr(sampling, name), getattr(Sampling(), name)
        # A whole number beyond 2**53 is rounded where the option is a real one.
        assert taken == default or taken == type(default)(value)


def test_the_command_line_uses_them_only_when_asked(told: Model) -> None:
    def written(*options: str) -> str:
        command = ["generate", "The", "--model", str(told.file.path), "--quiet", "--seed", "1"]
        result = CliRunner().invoke(main, [*command, *options])
        assert result.exit_code == 0, result.output
        return result.stdout.removesuffix("\n")

    suggested = told.suggested_sampling
    assert written() == told.generate("The", seed=1).text
    assert written("--suggested-sampling") == told.generate("The", suggested, seed=1).text
    # What is given wins, a default too.
    more = ("--suggested-sampling", "--max-new-tokens", "128", "--temperature", "1.1")
    options: Any = {"max_new_tokens": 128, "temperature": 1.1, "seed": 1}
    assert written(*more) == told.generate("The", suggested, **options).text
    bias = ("--suggested-sampling", "--logit-bias", "0=-inf")
    assert written(*bias) == told.generate("The", suggested, seed=1, logit_bias={0: -INF}).text


def test_info_shows_them(told: Model) -> None:
    facts = describe(told.file.path)
    end = told.spec["eos_ids"][1]
    assert facts["end_tokens"][0] == {"id": 0, "token": "<|endoftext|>"}
    assert facts["prefix_tokens"] == [{"id": 0, "token": "<|endoftext|>"}]
    assert facts["suffix_tokens"] == []
    assert facts["suggested_sampling"] == {"temperature": 0.5, "top_k": 40, "max_new_tokens": 9}
    assert facts["chat_templates"] == ["default"]
    shown = "\n".join(lines(facts))
    assert "end tokens  '<|endoftext|>' (0), " in shown
    assert f"({end})" in shown
    assert "prefix      '<|endoftext|>' (0), with every text" in shown
    assert "suggested   max_new_tokens=9, temperature=0.5, top_k=40" in shown


def test_a_prefix_comes_with_every_text(told: Model) -> None:
    assert told.tokenizer is not None
    plain = told.tokenizer.encode("The kernel is free.", add_special_tokens=False)
    assert told.tokenizer.encode("The kernel is free.") == [0, *plain]
    assert (told.tokenizer.prefix_ids, told.tokenizer.suffix_ids) == ([0], [])
    np.testing.assert_array_equal(told.logits("The kernel is free."), told.logits([0, *plain]))
    scores = told.score(["The kernel is free.", [0, *plain]])
    np.testing.assert_array_equal(*(score.log_probabilities for score in scores))
    generate = {"temperature": 0, "max_new_tokens": 3}
    assert told.generate("The", **generate).timing.prompt_tokens == 2
    assert told.generate("", **generate).timing.prompt_tokens == 1


def test_a_text_to_measure_on_has_one_prefix(told: Model, tmp_path: Path) -> None:
    text = "The kernel is free. " * 40
    path = tmp_path / "text"
    path.write_text(text)
    assert told.tokenizer is not None
    ids = told.tokenizer.encode(text)
    whole = pythia_rt.evaluate(told, ids, window=32)
    assert pythia_rt.evaluate(told, text, window=32).to_dict() == whole.to_dict()
    start = pythia_rt.evaluate(told, path, window=32, max_tokens=70).to_dict()
    assert start == pythia_rt.evaluate(told, ids[:70], window=32).to_dict()


# Tokens without a row, and rows without a token.


def test_an_added_token_may_lack_a_row(tmp_path: Path) -> None:
    folder = demo(tmp_path / "source")
    edit(folder / "tokenizer_config.json", lambda data: data.update(extra_special_tokens=["[PAD]"]))
    model = Model.load(convert(folder, tmp_path / "flat"))
    assert model.spec["n_tokens"] == 4096
    assert model.generate("The", max_new_tokens=2).tokens
    for call in (model.generate, model.stream, model.logits, lambda text: model.score([text])):
        with pytest.raises(
            ValueError, match=r"the text has the token '\[PAD\]', id 4096, for which"
        ):
            call("a [PAD]")
        with pytest.raises(ValueError, match="token id 4096 is not in the vocabulary"):
            call([1, 4096])
    with pytest.raises(ValueError, match=r"token ids must lie between 0 and 4095"):
        convert(folder, tmp_path / "calibrated", calibrate="a [PAD] b")


def test_tokens_of_the_vocabulary_have_rows(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "source", tokenizer=make_tokenizer(VOCAB + 2))
    with pytest.raises(CheckpointError, match="101 ids and the embedding 100 rows: give the"):
        convert(folder, tmp_path / "flat")


PADDING = (90, 99)  # the first and the last row without a token


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("padded")
    return Model.load(convert(write_checkpoint(folder / "source"), folder / "flat"))


@pytest.mark.parametrize("row", PADDING)
def test_ids_of_padding_rows_are_ids_everywhere(padded: Model, row: int) -> None:
    assert padded.spec["n_tokens"] == PADDING[0]
    options: dict[str, Any] = {"max_new_tokens": 8, "seed": 1, "repetition_penalty": 1.5}
    without = padded.generate([3, row], **options)
    assert padded.logits([3, row]).shape == (2, VOCAB)
    assert len(padded.score([[3, row]])[0]) == 1
    for more in ({"logit_bias": {row: 50.0}}, {"stop_token_ids": [row]}):
        assert padded.generate([3, row], **options, **more).tokens == without.tokens
    assert "".join(padded.stream([row], **options)) is not None
    assert max(without.tokens) < PADDING[0]
    assert padded.tokenizer is not None
    assert padded.tokenizer.decode([row]) == ""


@pytest.mark.parametrize("row", [VOCAB, 1 << 40, -1])
def test_ids_beyond_the_rows_are_ids_nowhere(padded: Model, row: int) -> None:
    calls = [
        lambda: padded.generate([3, row]),
        lambda: padded.stream([row]),
        lambda: padded.logits([row]),
        lambda: padded.score([[3, row]]),
        lambda: padded.generate([3], logit_bias={row: 1.0}),
        lambda: padded.generate([3], stop_token_ids=[row]),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"token"):
            call()


def test_a_source_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "source")
    (folder / "tokenizer.json").unlink()
    with pytest.warns(
        UserWarning, match=r"has no tokenizer\.json, so the model will take and give"
    ):
        model = Model.load(convert(folder, tmp_path / "flat"))
    assert model.generate([1, 2], max_new_tokens=2).text == ""


# In the flat file.


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("facts")
    source = write_checkpoint(folder / "source")
    (source / "chat_template.jinja").write_text("{{ \u00e9 }}")
    tokens = {"added_tokens_decoder": {"89": token("<|end|>"), "95": token("<x>", lstrip=True)}}
    (source / "tokenizer_config.json").write_text(
        json.dumps({**tokens, "chat_template": "no", "tokenizer_class": "TokenizersBackend"})
    )
    return convert(source, folder / "flat")


def test_facts_and_files_are_kept(flat: Path) -> None:
    file = FlatFile(flat)
    assert [(t["id"], t["content"]) for t in file.text["added_tokens"]] == [
        (89, "<|end|>"),
        (90, "<x>"),
    ]
    assert file.text["added_tokens"][1]["lstrip"] is True
    assert file.text["chat_templates"] == {"default": "{{ \u00e9 }}"}  # its own file comes first
    assert file.spec["n_tokens"] == 91
    assert set(file.files) == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    for name, content in file.files.items():
        assert (flat.parent / "source" / name).read_bytes() == content


@pytest.mark.parametrize(
    "change",
    [
        {"added_tokens": None},
        {"added_tokens": [{"id": 1}]},
        {"added_tokens": [{**token("a"), "id": 2}, {**token("b"), "id": 2}]},
        {"added_tokens": [{**token(""), "id": 2}]},
        {"added_tokens": [{**token("a"), "id": -1}]},
        {"added_tokens": [{**token("a"), "id": 1 << 40}]},
        {"added_tokens": [{**token("a"), "id": 1, "lstrip": 1}]},
        {"prefix_ids": [True]},
        {"prefix_ids": [-1]},
        {"prefix_ids": [0] * 1000},
        {"suffix_ids": 3},
        {"split_special_tokens": "no"},
        {"sections": {"normalizer": 3}},
        {"sections": []},
        {"sampling": {"temperature": "0.5"}},
        {"sampling": {"temperature": float("nan")}},
        {"chat_templates": {"default": 3}},
        {"chat_templates": {"default": "x" * (5 << 20)}},
    ],
)
def test_facts_of_other_types_are_refused(flat: Path, tmp_path: Path, change: Any) -> None:
    header, data = split(flat)
    text = json.loads(header["__metadata__"]["pythia_rt.text"])
    header["__metadata__"]["pythia_rt.text"] = json.dumps(text | change)
    with pytest.raises(FlatFileError, match=r"its text is invalid .*convert its source again"):
        FlatFile(join(tmp_path / "bad", header, data))


def test_a_missing_fact_is_refused_and_an_unknown_one_left_out(flat: Path, tmp_path: Path) -> None:
    header, data = split(flat)
    text = json.loads(header["__metadata__"]["pythia_rt.text"])
    later = {"voice": [1], "sampling": {"temperature": 1, "heat": 3}, "sections": {"later": None}}
    header["__metadata__"]["pythia_rt.text"] = json.dumps(text | later)
    file = FlatFile(join(tmp_path / "later", header, data))
    assert file.text == {**text, "sampling": {"temperature": 1}, "sections": {}}
    del text["prefix_ids"]
    header["__metadata__"]["pythia_rt.text"] = json.dumps(text)
    with pytest.raises(FlatFileError, match="prefix_ids is missing"):
        FlatFile(join(tmp_path / "less", header, data))


def test_facts_that_do_not_fit_the_tokenizer(flat: Path, tmp_path: Path) -> None:
    header, data = split(flat)
    text = json.loads(header["__metadata__"]["pythia_rt.text"])
    text["added_tokens"][1]["id"] = 95
    header["__metadata__"]["pythia_rt.text"] = json.dumps(text)
    model = Model.load(join(tmp_path / "odd", header, data))
    with pytest.raises(ValueError, match="does not fit its added tokens: convert again"):
        _ = model.tokenizer
    assert model.logits([1, 2]).shape == (2, VOCAB)  # ids need none
    assert len(model.score([[1, 2]])[0]) == 1


@given(st.data())
@settings(max_examples=examples(200), deadline=None)
def test_mutated_facts_never_crash(data: st.DataObject) -> None:
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
    values = st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=5,
    )
    changes = data.draw(st.dictionaries(st.sampled_from([*no_facts()]), values, max_size=3))
    facts: dict[str, Any] = {**no_facts(), **changes}
    try:
        assert set(validate_facts(facts)) == set(no_facts())
    except ValueError as error:
        assert str(error).isprintable()
