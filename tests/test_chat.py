"""Chats: an answer depends on the messages alone, and nothing is read twice."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from chats import BASE, TEMPLATES, make_folder, make_model, turns

from pythia_rt import Model
from pythia_rt.chat import sandbox
from pythia_rt.chat.chat import Chat
from pythia_rt.chat.formats import built_in_formats
from pythia_rt.convert import convert

OPTIONS: dict[str, Any] = {"max_new_tokens": 12, "temperature": 0.9, "seed": 5}


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model with a ChatML template."""
    return make_model(tmp_path_factory.mktemp("talker") / "f", template=TEMPLATES["chatml"])


def common(one: list[int], other: list[int]) -> int:
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    return same


def plain(result: Any) -> Any:
    return dataclasses.replace(result, timing=None)


@pytest.mark.parametrize("form", [None, "vicuna_v1.1", "llama2_chat", "alpaca"])
def test_an_answer_is_that_of_the_messages(talker: Model, form: str | None) -> None:
    chat = talker.new_chat(None if form == "llama2_chat" else "Be kind.", format=form)
    for text in ("Hello", "And then?", "Why?"):
        before = chat.tokens
        result = chat.generate(text, **OPTIONS)
        asked = chat.messages[:-1]
        assert asked[-1] == {"role": "user", "content": text}
        assert chat.messages[-1] == {"role": "assistant", "content": result.text.strip()}
        alone = talker.chat(asked, format=form, **OPTIONS)
        assert plain(alone) == plain(result)
        assert alone.timing.prompt_tokens == result.timing.prompt_tokens
        # All that the new prompt has in common with what was read or written is not read again,
        # but for the last token written, which nothing has read yet.
        prompt = chat.tokens[: result.timing.prompt_tokens]
        assert result.timing.cached_tokens >= common(before, prompt) - 1
        assert result.timing.cached_tokens <= common(before, prompt)


def test_an_answer_that_is_read_as_it_was_written_is_not_read_again(talker: Model) -> None:
    assert talker.tokenizer is not None
    # Of tokens that no merge joins: every answer is encoded as it was written.
    letters = [i for i in range(2, 90) if talker.tokenizer.decode([i]).isalpha()]
    bias = {i: 200.0 for i in letters if talker.tokenizer.decode([i]) in "QXZ"}
    chat = talker.new_chat()
    options = {**OPTIONS, "logit_bias": bias}
    first = chat.generate("Hello", **options)
    second = chat.generate("Hello", **options)
    read = first.timing.prompt_tokens + first.timing.new_tokens
    assert talker.tokenizer.encode(first.text) == first.tokens
    assert second.timing.cached_tokens == read - 1  # the last one was written and never read


def test_the_end_of_a_turn_ends_the_answer(talker: Model) -> None:
    end = BASE + 3  # "<|im_end|>", which is no end token of the model's
    assert end not in talker.spec["eos_ids"]
    result = talker.chat(turns("Hello"), logit_bias={end: 1000.0}, max_new_tokens=9)
    assert (result.text, result.tokens, result.finish_reason) == ("", [end], "stop")


def test_what_stops_comes_on_top(talker: Model) -> None:
    text = talker.chat(turns("Hello"), **OPTIONS).text
    cut = text[3:5]
    result = talker.chat(turns("Hello"), **OPTIONS, stop=cut)
    assert result.text == text[: text.index(cut)]
    assert result.finish_reason == "stop"


@pytest.mark.parametrize("form", [None, "vicuna_v1.1"])
def test_streams_give_the_same(talker: Model, form: str | None) -> None:
    whole = talker.chat(turns("Hello"), format=form, **OPTIONS)
    with talker.stream_chat(turns("Hello"), format=form, **OPTIONS) as stream:
        assert "".join(stream) == whole.text
        assert plain(stream.result) == plain(whole)
        assert stream.seed == 5


@pytest.mark.parametrize("first", [" ", "  ", "x"])
def test_the_space_that_a_format_puts_before_an_answer(talker: Model, first: str) -> None:
    assert talker.tokenizer is not None
    [token] = talker.tokenizer.encode(first)
    options: dict[str, Any] = {"logit_bias": {token: 1000.0}, "max_new_tokens": 3, "seed": 1}
    written = talker.generate(talker.new_chat(format="vicuna_v1.1").prompt("Hello"), **options).text
    assert written == 3 * first
    answer = talker.chat(turns("Hello"), format="vicuna_v1.1", **options).text
    assert answer == written.removeprefix(" ")
    assert talker.chat(turns("Hello"), format="alpaca", **options).text == written
    pieces = list(talker.stream_chat(turns("Hello"), format="vicuna_v1.1", **options))
    assert "".join(pieces) == answer


def test_a_stream_that_is_left_is_an_answer(talker: Model) -> None:
    chat = talker.new_chat()
    stream = chat.stream("Hello", **OPTIONS)
    pieces = [next(stream), next(stream)]
    stream.close()
    stream.close()
    assert chat.messages[-1] == {"role": "assistant", "content": "".join(pieces).strip()}
    with pytest.raises(ValueError, match="not read to its end"):
        _ = stream.result
    chat.stream("Again", **OPTIONS)  # of which nothing is read
    assert len(chat.messages) == 2
    again = chat.generate("Again", **OPTIONS)
    assert plain(again) == plain(talker.chat(chat.messages[:-1], **OPTIONS))
    begun = chat.stream("More", **OPTIONS)
    next(begun)
    assert chat.generate("Then", **OPTIONS).text  # ends the other one
    assert [turn["content"] for turn in chat.messages[::2]] == ["Hello", "Again", "More", "Then"]


def test_lists_replace_what_was_said(talker: Model) -> None:
    chat = talker.new_chat()
    chat.generate("Hello", **OPTIONS)
    edited = turns("Hello", "I said something else.", "Why?")
    result = chat.generate(edited, **OPTIONS)
    assert plain(result) == plain(talker.chat(edited, **OPTIONS))
    assert result.timing.cached_tokens > 0
    assert chat.messages == [*edited, {"role": "assistant", "content": result.text.strip()}]
    # The same once more: only the last token of the prompt is read again.
    once_more = chat.generate(edited, **OPTIONS)
    assert plain(once_more) == plain(result)
    assert once_more.timing.cached_tokens == once_more.timing.prompt_tokens - 1


def test_forks_and_new_beginnings(talker: Model) -> None:
    chat = talker.new_chat("Be kind.")
    chat.generate("Hello", **OPTIONS)
    fork = chat.fork()
    assert isinstance(fork, Chat)
    assert plain(fork.generate("Why?", **OPTIONS)) == plain(chat.generate("Why?", **OPTIONS))
    fork.reset()
    assert fork.messages == [{"role": "system", "content": "Be kind."}]
    assert len(chat.messages) == 5
    again = fork.generate("Hello", **OPTIONS)
    assert again.timing.cached_tokens > 0
    assert again.text.strip() == chat.messages[2]["content"]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_a_fork(talker: Model, copied: Any) -> None:
    chat = talker.new_chat("Be kind.")
    chat.generate("Hello", **OPTIONS)
    said = chat.messages
    other = copied(chat)
    for each, text in ((other, "And then?"), (chat, "Why?")):
        result = each.generate(text, **OPTIONS)
        asked = [*said, {"role": "user", "content": text}]
        assert each.messages == [*asked, {"role": "assistant", "content": result.text.strip()}]
        assert plain(result) == plain(talker.chat(asked, **OPTIONS))


def test_a_full_context_is_said_and_nothing_lost(talker: Model) -> None:
    chat = talker.new_chat(capacity=64)
    result = chat.generate("Hello", max_new_tokens=1000, seed=1)
    assert result.timing.prompt_tokens + result.timing.new_tokens <= 64
    before = chat.messages
    with pytest.raises(
        ValueError,
        match=r"^the chat has \d+ tokens and its context 64, so there is no room for an answer: "
        r"leave out old turns, or begin anew with reset\(\)$",
    ):
        chat.generate("word " * 30, **OPTIONS)
    assert chat.messages == before
    chat.reset()
    assert chat.generate("Hello", max_new_tokens=3, seed=1).timing.new_tokens == 3


BAD: dict[str, tuple[Any, str]] = {
    "none": ([], "there are no messages: give at least one of the user"),
    "a dict": ({"role": "user", "content": "x"}, "messages must be a list of turns"),
    "no list": (3, "messages must be a list of turns"),
    "a str in it": (["x"], "message 1 must be a dict"),
    "no role": ([{"content": "x"}], "message 1 has no role"),
    "no content": ([{"role": "user"}], "message 1 has no content"),
    "more": ([{"role": "user", "content": "x", "name": "y"}], "message 1 has 'name'"),
    "another role": ([{"role": "tool", "content": "x"}], "message 1 has the role 'tool': roles"),
    "a role of a list": ([{"role": ["user"], "content": "x"}], "message 1 has the role"),
    "no text": ([{"role": "user", "content": None}], "its content must be a str, not NoneType"),
    "parts": ([{"role": "user", "content": [{"text": "x"}]}], "its content must be a str"),
    "a surrogate": ([{"role": "user", "content": "\ud800"}], "holds a lone surrogate"),
    "an answer last": (turns("x", "y"), "the last message is the assistant's"),
    "a system text last": (
        [{"role": "system", "content": "x"}],
        "the last message is the system's",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_messages(talker: Model, kind: str) -> None:
    messages, sentence = BAD[kind]
    with pytest.raises(ValueError, match=sentence) as caught:
        talker.chat(messages)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"temperature": -1}, {"stop_token_ids": 1 << 20}])
def test_bad_options_change_nothing(talker: Model, options: dict[str, Any]) -> None:
    chat = talker.new_chat()
    chat.generate("Hello", **OPTIONS)
    before = chat.messages
    with pytest.raises(ValueError):
        chat.generate("Again", **options)
    assert chat.messages == before
    assert plain(chat.generate("Again", **OPTIONS)) == plain(
        talker.chat([*before, *turns("Again")], **OPTIONS)
    )


def test_a_base_model_says_that_it_is_one(model: Model) -> None:
    with pytest.raises(ValueError, match=r"records no chat format, as base models do: pass format"):
        model.chat(turns("Hello"))
    assert model.chat(turns("Hello"), format="alpaca", max_new_tokens=2).tokens
    with pytest.raises(ValueError, match=r"there is no chat format 'alpacca': choose one of .*"):
        model.chat(turns("Hello"), format="alpacca")
    with pytest.raises(ValueError, match=r"the format llama2_chat needs the token '<s>', which"):
        model.chat(turns("Hello"), format="llama2_chat")


@pytest.mark.parametrize(
    ("templates", "chosen"),
    [
        ([("only", "one")], "only"),
        ([("default", "a"), ("tool_use", "b")], "default"),
        ([("rag", "a"), ("tool_use", "b")], None),
    ],
)
def test_a_model_with_named_templates(tmp_path: Path, templates: Any, chosen: str | None) -> None:
    listed = [{"name": name, "template": text} for name, text in templates]
    model = make_model(tmp_path / "f", template=listed)
    if chosen is None:
        with pytest.raises(ValueError, match=r"several chat templates and none .* of 'rag', 'tool"):
            model.new_chat()
    else:
        assert model.new_chat().format == chosen
    name, text = templates[-1]
    assert model.new_chat(format=name).prompt("x") == text
    assert model.new_chat(format="zephyr").format == "zephyr"


def test_a_format_by_the_tokens_of_the_file(tmp_path: Path) -> None:
    model = make_model(tmp_path / "f", tokens=("<|prompter|>", "<|assistant|>"))
    assert model.new_chat().format == "oasst_pythia"


def test_tokens_of_the_template_that_are_not_special(tmp_path: Path) -> None:
    """A user's "</think>" is text, that of an answer the template's business."""
    think = ("<think>", "</think>")
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<think>' + "
        "m.content.split('</think>')[-1] }}{% else %}{{ '[' + m.content + ']' }}{% endif %}"
        "{% endfor %}"
    )
    model = make_model(tmp_path / "f", template=template, tokens=think, plain=think)
    chat = model.new_chat()
    messages = turns("</think>", "secret</think>told", "<think>x")
    assert chat.prompt(messages) == "[</think>]<think>told[<think>x]"
    chat.generate(messages, max_new_tokens=1)
    assert [token for token in chat.tokens[:-1] if token >= BASE] == [BASE]


def test_spellings_that_become_control_tokens_are_refused(tmp_path: Path) -> None:
    """A normaliser may make a token of what does not look like one."""
    folder = tmp_path / "f"
    model = make_model(
        folder,
        template="{{ messages[0].content }}",
        added_tokens_decoder={
            "4096": {
                "content": "<e\u0301nd>", "special": True, "normalized": True, "lstrip": False,
                "rstrip": False, "single_word": False,
            }
        },
        tokenizer_class="GPTNeoXTokenizer",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"message 1 has text that .* as its control token"):
        model.new_chat().prompt("<\u00e9nd>")


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "f", template="x")
    (folder / "tokenizer.json").unlink()
    with pytest.warns(UserWarning, match=r"has no tokenizer\.json"):
        model = Model.load(convert(folder, tmp_path / "flat"))
    with pytest.raises(ValueError, match="no tokenizer, so it cannot chat: use generate"):
        model.chat(turns("x"))


def test_the_page_about_chats_is_true(talker: Model, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parent.parent / "docs" / "chat.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, re.S)
    there = SimpleNamespace(Model=SimpleNamespace(from_pretrained=lambda _: talker))
    exec(code, {"pythia_rt": there})
    assert len(capsys.readouterr().out) > 100
    listed = re.findall(r"^\| (`\w.*?) \|", page, re.M)
    named = [name for line in listed for name in re.findall(r"`(\S+?)`", line)]
    assert sorted(named) == sorted(built_in_formats())
    assert f"after {sandbox.SECONDS:g} seconds" in page
