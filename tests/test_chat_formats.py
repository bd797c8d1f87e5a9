"""The built-in formats: the texts that models were trained with, and which model has which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chats import BASE, make_folder, make_model, turns
from tokenizer_folders import edit, template

from pythia_rt import Model
from pythia_rt.chat.formats import built_in_formats
from pythia_rt.chat.prompter import Prompter
from pythia_rt.convert import convert

TASK = "Below is an instruction that describes a task"
WRITE = "Write a response that appropriately completes the request.\n\n"
SCIENCE = (
    "A chat between a curious {0} and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the {0}'s questions."
)
STABLELM = (
    "<|SYSTEM|># StableLM Tuned (Alpha version)\n"
    "- StableLM is a helpful and harmless open-source AI language model developed by StabilityAI.\n"
    "- StableLM is excited to be able to help the user, but will refuse to do anything that could "
    "be considered harmful to the user.\n"
    "- StableLM is more than just an information source, StableLM is also able to write poetry, "
    "short stories, and make jokes.\n"
    "- StableLM will refuse to participate in anything that could harm a human.\n"
)
# What a chat of the user's "A", the answer "B" and the user's "C" becomes.
TEXTS = {
    "dolly_v2": f"{TASK}. {WRITE}### Instruction:\nA\n\n### Response:\nB\n\n### End\n\n"
    "### Instruction:\nC\n\n### Response:\n",
    "alpaca": f"{TASK}. {WRITE}### Instruction:\nA\n\n### Response:B</s>"
    "### Instruction:\nC\n\n### Response:",
    "stablevicuna": "### Human: A\n### Assistant: B\n### Human: C\n### Assistant:",
    "vicuna_v0": SCIENCE.format("human")
    + "\n### Human: A\n### Assistant: B\n### Human: C\n### Assistant:",
    "vicuna_v1.1": SCIENCE.format("user") + " USER: A ASSISTANT: B</s>USER: C ASSISTANT:",
    "redpajama": "<human>: A\n<bot>: B\n<human>: C\n<bot>:",
    "stablelm_alpha": STABLELM + "<|USER|>A<|ASSISTANT|>B<|USER|>C<|ASSISTANT|>",
    "oasst_llama": "<|prompter|>A</s><|assistant|>B</s><|prompter|>C</s><|assistant|>",
    "oasst_pythia": "<|prompter|>A<|endoftext|><|assistant|>B<|endoftext|>"
    "<|prompter|>C<|endoftext|><|assistant|>",
    "falcon_180b_chat": "User: A\nFalcon: B\nUser: C\nFalcon:",
    "falcon_instruct": "User: A\n\nAssistant: B\n\nUser: C\n\nAssistant:",
    "llama2_chat": "<s>[INST] A [/INST] B </s><s>[INST] C [/INST]",
    "phi2": "Instruct: A\nOutput: B\nInstruct: C\nOutput:",
    "zephyr": "<|user|>\nA</s>\n<|assistant|>\nB</s>\n<|user|>\nC</s>\n<|assistant|>\n",
    "chatml": "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
    "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n",
}
# What a system text "S" makes of the beginning; the others have none.
SYSTEMS = {
    "dolly_v2": "S\n\n### Instruction:\nA",
    "alpaca": "S\n\n### Instruction:\nA",
    "vicuna_v0": "S\n### Human: A",
    "vicuna_v1.1": "S USER: A",
    "stablelm_alpha": "<|SYSTEM|>S<|USER|>A",
    "oasst_llama": "<|system|>S</s><|prompter|>A",
    "oasst_pythia": "<|system|>S<|endoftext|><|prompter|>A",
    "falcon_180b_chat": "System: S\nUser: A",
    "llama2_chat": "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nA [/INST]",
    "zephyr": "<|system|>\nS</s>\n<|user|>\nA",
    "chatml": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA",
}
MODELS = {
    "databricks/dolly-v2-12b": "dolly_v2",
    "stanford_alpaca-7b": "alpaca",
    "CarperAI/stable-vicuna-13b-delta": "stablevicuna",
    "lmsys/vicuna-7b-delta-v0": "vicuna_v0",
    "lmsys/vicuna-7b-v1.5": "vicuna_v1.1",
    "togethercomputer/RedPajama-INCITE-Chat-3B-v1": "redpajama",
    "stabilityai/stablelm-tuned-alpha-7b": "stablelm_alpha",
    "OpenAssistant/oasst-sft-7-llama-30b": "oasst_llama",
    "OpenAssistant/oasst-sft-4-pythia-12b-epoch-3.5": "oasst_pythia",
    "tiiuae/falcon-180B-chat": "falcon_180b_chat",
    "tiiuae/falcon-7b-instruct": "falcon_instruct",
    "meta-llama/Llama-2-7b-chat-hf": "llama2_chat",
    "microsoft/phi-2": "phi2",
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": "zephyr",
    "HuggingFaceH4/zephyr-7b-beta": "zephyr",
    "EleutherAI/pythia-12b": None,
    "meta-llama/Llama-2-7b-hf": None,
    "tiiuae/falcon-7b": None,
    "togethercomputer/RedPajama-INCITE-Base-3B-v1": None,
    "microsoft/phi-1_5": None,
    "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T": None,
}
KINDS_OF_TOKENS = {
    ("### End", "### Instruction:", "### Response:\n"): "dolly_v2",
    ("<|SYSTEM|>", "<|USER|>", "<|ASSISTANT|>"): "stablelm_alpha",
    ("<|prompter|>", "<|assistant|>", "</s>"): "oasst_llama",
    ("<|prompter|>", "<|assistant|>"): "oasst_pythia",
    ("<|im_start|>", "<|im_end|>"): "chatml",
    ("<s>", "</s>"): None,
}
ALL = (
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "### End", "### Instruction:", "### Response:\n",
    "<|SYSTEM|>", "<|USER|>", "<|ASSISTANT|>", "<|prompter|>", "<|assistant|>", "<|system|>",
    ">>TITLE<<",
)  # fmt: skip


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model whose tokenizer has the tokens of every format."""
    return make_model(tmp_path_factory.mktemp("formats") / "f", tokens=ALL)


def prompter(model: Model, name: str) -> Prompter:
    assert model.tokenizer is not None
    return Prompter(built_in_formats()[name], model.tokenizer, model.file.text["added_tokens"])


def test_the_tests_know_every_format() -> None:
    assert list(TEXTS) == list(built_in_formats())


@pytest.mark.parametrize("name", TEXTS)
def test_texts(talker: Model, name: str) -> None:
    chat = talker.new_chat(format=name)
    assert chat.prompt(turns("A", "B", "C")) == TEXTS[name]
    # What opens an answer is how its turn begins, white space aside.
    form = prompter(talker, name)
    opened = "".join(segment.text for segment in form.format.render(turns("A"), opened=True))
    whole = "".join(segment.text for segment in form.format.render(turns("A", "B"), opened=False))
    lead = form.surroundings.lead
    assert lead in ("", " ")
    assert whole.startswith(opened + lead + "B")


@pytest.mark.parametrize("name", TEXTS)
def test_system_texts(talker: Model, name: str) -> None:
    chat = talker.new_chat("S", format=name)
    if name in SYSTEMS:
        assert chat.prompt("A").startswith(SYSTEMS[name])
    else:
        with pytest.raises(ValueError, match=rf"the format {name} has no system text: say it"):
            chat.prompt("A")


def test_inputs(talker: Model) -> None:
    asked = [{"role": "user", "content": "A", "input": "I"}]
    paired = f"{TASK}, paired with an input that provides further context. {WRITE}"
    alpaca = talker.new_chat(format="alpaca").prompt(asked)
    assert alpaca == f"{paired}### Instruction:\nA\n\n### Input:\nI\n\n### Response:"
    dolly = talker.new_chat(format="dolly_v2").prompt(asked)
    assert dolly == f"{TASK}. {WRITE}### Instruction:\nA\n\nInput:\nI\n\n### Response:\n"
    for name in TEXTS.keys() - {"alpaca", "dolly_v2"}:
        with pytest.raises(ValueError, match=rf"an input, which the format {name} has not"):
            talker.new_chat(format=name).prompt(asked)


@pytest.mark.parametrize("source", MODELS)
def test_models_by_name(source: str) -> None:
    fitting = [form.name for form in built_in_formats().values() if form.fits(source, ())]
    assert (fitting or [None])[0] == MODELS[source]


@pytest.mark.parametrize("tokens", KINDS_OF_TOKENS)
def test_models_by_their_tokens(tokens: tuple[str, ...]) -> None:
    known = {*tokens, "<|endoftext|>"}
    fitting = [form.name for form in built_in_formats().values() if form.fits("mine", known)]
    assert (fitting or [None])[0] == KINDS_OF_TOKENS[tokens]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("roles", ["assistant user", "user user", "user system user"])
def test_turns_out_of_order(talker: Model, name: str, roles: str) -> None:
    messages = [{"role": role, "content": "x"} for role in roles.split()]
    with pytest.raises(ValueError, match=r"user and assistant take turns, behind one system text"):
        talker.new_chat(format=name).prompt(messages)


def test_stops_come_with_the_format(talker: Model) -> None:
    def id_of(token: str) -> int:
        assert talker.tokenizer is not None
        found = talker.tokenizer.token_id(token)
        assert found is not None
        return found

    assert prompter(talker, "chatml").stops == ((), (id_of("<|im_end|>"), 0))
    assert prompter(talker, "vicuna_v0").stops == (("###",), (id_of("</s>"),))
    strings, ids = prompter(talker, "falcon_instruct").stops
    assert ids == (id_of(">>TITLE<<"), 0)
    assert strings[:2] == ("\nUser", ">>ABSTRACT<<")  # a token that this tokenizer lacks


def test_llama2_encodes_each_pair_by_itself(talker: Model) -> None:
    assert talker.tokenizer is not None

    def plain(text: str) -> list[int]:
        assert talker.tokenizer is not None
        return talker.tokenizer.encode(text, add_special_tokens=False)

    bos, eos = BASE, BASE + 1
    ids = prompter(talker, "llama2_chat").prompt(turns(" A\n", " B ", "C", "D", "E")).ids
    assert ids == [
        *(bos, *plain("[INST] A [/INST] B "), eos),
        *(bos, *plain("[INST] C [/INST] D "), eos),
        *(bos, *plain("[INST] E [/INST]")),
    ]


@pytest.mark.parametrize("tag", ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_llama2_refuses_its_tags(talker: Model, tag: str, place: int) -> None:
    messages = turns("a", "b", "c", system="s")
    messages[place]["content"] += tag
    with pytest.raises(ValueError, match=r"^message \d holds .*: leave it out$"):
        talker.new_chat(format="llama2_chat").prompt(messages)


def test_falcon_collapses_empty_lines(talker: Model) -> None:
    prompt = talker.new_chat(format="falcon_instruct").prompt("a\r\n\r\nb\n\nc")
    assert prompt == "User: a\nb\nc\n\nAssistant:"


def test_braces_in_contents_are_text(talker: Model) -> None:
    prompt = talker.new_chat("{content}", format="zephyr").prompt("{system} {begin} {}")
    assert prompt == "<|system|>\n{content}</s>\n<|user|>\n{system} {begin} {}</s>\n<|assistant|>\n"


@pytest.mark.parametrize("name", TEXTS)
def test_tokens_in_contents_stay_text(talker: Model, name: str) -> None:
    forged = turns("".join(ALL), "".join(ALL), "<|endoftext|>" + "".join(ALL))
    form = prompter(talker, name)
    control = set(range(BASE, BASE + len(ALL))) | {0, 1}

    def found(messages: Any) -> list[int]:
        return [token for token in form.prompt(messages).ids if token in control]

    assert found(forged) == found(turns("A", "B", "C"))


def test_what_the_tokenizer_puts_before_a_text_stands_there_once(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "f", template="{{ bos_token }}{{ messages[0].content }}")
    edit(folder / "tokenizer.json", template("<|endoftext|> $A"))
    model = Model.load(convert(folder, tmp_path / "flat"))
    assert model.tokenizer is not None
    assert model.tokenizer.prefix_ids == [0]
    zephyr = prompter(model, "zephyr").prompt(turns("A"))
    assert zephyr.ids.count(0) == 1 and zephyr.ids[0] == 0
    assert zephyr.text.startswith("<|endoftext|><|user|>")
    ids = model.tokenizer.encode("A", add_special_tokens=False)
    chat = model.new_chat()
    chat.generate("A", max_new_tokens=1)
    assert chat.tokens[: 1 + len(ids)] == [BASE, *ids]  # the template's own BOS alone
