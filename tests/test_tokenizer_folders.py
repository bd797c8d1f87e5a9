"""A folder's text is what transformers' AutoTokenizer makes of the same files, however odd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_folders import make_folder, ours, resolve, template, token

from pythia_rt.convert import CheckpointError
from pythia_rt.tokenizer import Tokenizer

# Those that take tokenizer.json as it is and those that build most of it anew.
KINDS_OF_CLASSES = ("GPTNeoXTokenizer", "PreTrainedTokenizerFast", "GPT2TokenizerFast")
CLASSES = (
    "GPTNeoXTokenizerFast",
    "TokenizersBackend",
    "LlamaTokenizer",
    "GPT2Tokenizer",
    "BloomTokenizerFast",
    "NobodysTokenizer",
    None,
)
TEXTS = (
    "",
    "<|user|>hi cafe\u0301 x <|endoftext|>  [PAD] y<|padding|>\n[MASK] hi<s>a</s>",
    "  two  spaces [PAD]",
    "\u010d \u0120the the [pad]",
)
USER = token("<|user|>")

# By name: what is changed in tokenizer_config.json, tokenizer.json, config.json and what is added.
FOLDERS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "bos template": {"tokenizer": template("<|endoftext|> $A")},
    "bos and eos template": {"tokenizer": template("<|endoftext|> $A <|endoftext|>")},
    "several before": {"tokenizer": template("<|padding|> <|endoftext|> $A", **{"<|padding|>": 1})},
    "roberta": {
        "tokenizer": lambda data: data.update(
            post_processor={
                "type": "RobertaProcessing",
                "sep": ["<|padding|>", 1],
                "cls": ["<|endoftext|>", 0],
                "trim_offsets": True,
                "add_prefix_space": False,
            }
        )
    },
    "sequence": {
        "tokenizer": lambda data: (
            template("<|endoftext|> $A")(data),
            data.update(
                post_processor={
                    "type": "Sequence",
                    "processors": [
                        {
                            "type": "ByteLevel",
                            "add_prefix_space": True,
                            "trim_offsets": False,
                            "use_regex": True,
                        },
                        data["post_processor"],
                    ],
                }
            ),
        )
    },
    "no post processor": {"tokenizer": lambda data: data.update(post_processor=None)},
    "add bos and eos": {"tokenizer_config": {"add_bos_token": True, "add_eos_token": True}},
    "add no bos": {
        "tokenizer_config": {"add_bos_token": False},
        "tokenizer": template("<|endoftext|> $A"),
    },
    "added in the config": {"tokenizer_config": {"added_tokens_decoder": {"4096": USER}}},
    "added with gaps, out of order": {
        "tokenizer_config": {
            "added_tokens_decoder": {"4100": USER, "4098": token("[PAD]", normalized=True)}
        }
    },
    "other flags": {
        "tokenizer_config": {
            "added_tokens_decoder": {
                "0": token("<|endoftext|>", special=False, lstrip=True, rstrip=True),
                "1": token("<|padding|>", special=False, single_word=True),
            }
        }
    },
    "fewer than the file": {
        "tokenizer_config": {
            "added_tokens_decoder": {"0": token("<|endoftext|>")},
            "pad_token": None,
        }
    },
    "an empty list": {"tokenizer_config": {"added_tokens_decoder": {}, "pad_token": "[PAD]"}},
    "of the vocabulary": {
        "tokenizer_config": {"added_tokens_decoder": {"5": token("\u0120the"), "6": token("hi")}}
    },
    "not special": {
        "tokenizer_config": {"added_tokens_decoder": {"4096": USER | {"special": False}}}
    },
    "added_tokens.json": {"files": {"added_tokens.json": {"<|user|>": 4100, "[PAD]": 4096}}},
    "added_tokens.json, two with one id, one of them named with flags": {
        "files": {
            "tokenizer_config.json": {"bos_token": "<|user|>"},
            "added_tokens.json": {"<|user|>": 4090, "[PAD]": 4090},
            "special_tokens_map.json": {
                "bos_token": "<|user|>",
                "sep_token": {"content": "<|user|>", "lstrip": True, "single_word": True},
            },
        },
    },
    "added_tokens.json, a special one": {
        "tokenizer_config": {"pad_token": "[PAD]"},
        "files": {"added_tokens.json": {"<|user|>": 4096, "[PAD]": 4097}},
    },
    "special_tokens_map.json": {
        "files": {
            "special_tokens_map.json": {
                "pad_token": {
                    "content": "[PAD]",
                    "lstrip": True,
                    "rstrip": False,
                    "normalized": False,
                    "single_word": False,
                },
                "mask_token": "[MASK]",
                "additional_special_tokens": ["<|user|>", "<s>"],
                "bos_token": "<s>",
            }
        }
    },
    "special_tokens_map.json is not read": {
        "tokenizer_config": {"added_tokens_decoder": {"0": token("<|endoftext|>")}},
        "files": {"special_tokens_map.json": {"pad_token": "[PAD]"}},
    },
    "both maps": {
        "tokenizer_config": {"additional_special_tokens": ["<s>"], "pad_token": "[PAD]"},
        "files": {
            "special_tokens_map.json": {
                "eos_token": "</s>",
                "pad_token": "<|padding|>",
                "additional_special_tokens": ["<|user|>"],
            },
            "added_tokens.json": {"</s>": 4097, "<s>": 4096},
        },
    },
    "named in the config": {
        "tokenizer_config": {"pad_token": "[PAD]", "additional_special_tokens": ["<|user|>"]}
    },
    "named as an object": {
        "tokenizer_config": {
            "pad_token": {
                "__type": "AddedToken",
                "content": "[PAD]",
                "lstrip": True,
                "rstrip": False,
                "normalized": False,
                "single_word": False,
            }
        }
    },
    "extra as a list": {"tokenizer_config": {"extra_special_tokens": ["<|user|>", "[MASK]"]}},
    "extra with names": {"tokenizer_config": {"extra_special_tokens": {"user_token": "<|user|>"}}},
    "a name of its own": {"tokenizer_config": {"user_token": "<|user|>"}},
    "special tokens are split": {"tokenizer_config": {"split_special_tokens": True}},
    "prefix space": {"tokenizer_config": {"add_prefix_space": True}},
    "no normalizer": {"tokenizer": lambda data: data.update(normalizer=None)},
    "limits": {
        "tokenizer": lambda data: data.update(
            truncation={
                "direction": "Right",
                "max_length": 4,
                "strategy": "LongestFirst",
                "stride": 0,
            },
        )
    },
    "class in config.json": {
        "tokenizer": template("<|endoftext|> $A"),
        "config": lambda data: data.update(tokenizer_class="PreTrainedTokenizerFast"),
    },
    "a vocabulary of its own": {
        "tokenizer": lambda data: (
            data.update(added_tokens=[]),
            data["model"]["vocab"].update(
                {
                    "<eot>": data["model"]["vocab"].pop("<|endoftext|>"),
                    "<pad>": data["model"]["vocab"].pop("<|padding|>"),
                }
            ),
        )
    },
    "chat template": {
        "tokenizer_config": {
            "chat_template": [{"name": "default", "template": "a"}, {"name": "b", "template": "c"}]
        }
    },
}


def write(folder: Path, kind: str, cls: str | None) -> Path:
    parts = dict(FOLDERS[kind])
    values = parts.pop("tokenizer_config", {})

    def change(data: dict[str, Any]) -> None:
        data.update(values)
        data["tokenizer_class"] = cls
        if cls is None:
            del data["tokenizer_class"]

    return make_folder(folder, change, **parts)


def same(ours: Tokenizer, theirs: Any, text: str) -> None:
    plain = theirs(text, add_special_tokens=False, truncation=False).input_ids
    assert ours.encode(text, add_special_tokens=False) == plain
    ids = theirs(text, truncation=False).input_ids
    assert ours.encode(text) == ids


def check(folder: Path, auto: Any) -> None:
    theirs = auto.from_pretrained(folder)
    facts, vocabulary = resolve(folder)
    assert vocabulary == (4096, len(theirs))
    added = {token.pop("id"): token for token in [dict(known) for known in facts["added_tokens"]]}
    assert added == {i: known.__getstate__() for i, known in theirs.added_tokens_decoder.items()}
    assert facts["named_tokens"] == theirs.special_tokens_map
    tokenizer = ours(folder)
    for text in TEXTS:
        same(tokenizer, theirs, text)


@pytest.mark.parametrize("cls", KINDS_OF_CLASSES)
@pytest.mark.parametrize("kind", FOLDERS)
def test_ids_are_those_of_transformers(tmp_path: Path, auto: Any, kind: str, cls: str) -> None:
    check(write(tmp_path / "f", kind, cls), auto)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("kind", ["bos template", "add bos and eos", "added in the config"])
def test_every_class(tmp_path: Path, auto: Any, kind: str, cls: str | None) -> None:
    check(write(tmp_path / "f", kind, cls), auto)


@pytest.mark.parametrize("more", [[], ["tool_use"], ["b", "a.b"]])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("said", [None, "said", [{"name": "x", "template": "said"}]])
def test_chat_templates_are_those_of_transformers(
    tmp_path: Path, auto: Any, said: Any, own: bool, more: list[str]
) -> None:
    folder = make_folder(tmp_path / "f", lambda data: data.update(chat_template=said))
    if own:
        (folder / "chat_template.jinja").write_text("own")
    for name in more:
        (folder / "additional_chat_templates").mkdir(exist_ok=True)
        (folder / "additional_chat_templates" / f"{name}.jinja").write_text(f"{name} of a file")
    theirs = auto.from_pretrained(folder).chat_template
    expected = {"default": theirs} if isinstance(theirs, str) else theirs or {}
    assert resolve(folder)[0]["chat_templates"] == expected


def test_no_tokenizer_config(tmp_path: Path, auto: Any) -> None:
    folder = write(tmp_path / "f", "bos template", None)
    (folder / "tokenizer_config.json").unlink()
    check(folder, auto)


@pytest.fixture(
    scope="module",
    params=[
        ("added with gaps, out of order", "PreTrainedTokenizerFast"),
        ("other flags", "GPTNeoXTokenizer"),
        ("special_tokens_map.json", "GPT2Tokenizer"),
        ("special tokens are split", "LlamaTokenizer"),
        ("bos and eos template", "PreTrainedTokenizerFast"),
    ],
    ids=lambda param: param[0],
)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, auto: Any
) -> tuple[Tokenizer, Any]:
    folder = write(tmp_path_factory.mktemp("folder") / "f", *request.param)
    return ours(folder), auto.from_pretrained(folder)


PIECES = st.sampled_from(
    [
        "<|user|>",
        "[PAD]",
        "<|endoftext|>",
        "<|padding|>",
        "<s>",
        "[MASK]",
        " ",
        "\n",
        "hi",
        "e\u0301",
    ]
)


@given(text=st.lists(PIECES | st.text(max_size=4), max_size=8).map("".join))
@settings(deadline=None, max_examples=examples(200))
def test_any_text(pair: tuple[Tokenizer, Any], text: str) -> None:
    tokenizer, theirs = pair
    same(tokenizer, theirs, text)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == theirs.decode(ids)


DAMAGED: list[tuple[str, Any]] = [
    ("tokenizer_config.json", {"added_tokens_decoder": []}),
    ("tokenizer_config.json", {"added_tokens_decoder": {"x": token("a")}}),
    ("tokenizer_config.json", {"added_tokens_decoder": {"-1": token("a")}}),
    ("tokenizer_config.json", {"added_tokens_decoder": {"4096": 3}}),
    ("tokenizer_config.json", {"added_tokens_decoder": {"4096": token("a", lstrip=3)}}),  # type: ignore[arg-type]
    ("tokenizer_config.json", {"added_tokens_decoder": {"4096": {"lstrip": True}}}),
    ("tokenizer_config.json", {"pad_token": 3}),
    ("tokenizer_config.json", {"additional_special_tokens": "a"}),
    ("tokenizer_config.json", {"chat_template": 3}),
    ("tokenizer_config.json", {"chat_template": [{"name": "a"}]}),
    ("added_tokens.json", {"a": "b"}),
    ("added_tokens.json", {"a": None}),
    ("added_tokens.json", {"a": 1 << 40}),
    ("special_tokens_map.json", {"pad_token": [3]}),
    ("special_tokens_map.json", {"additional_special_tokens": {"content": "a"}}),
]


@pytest.mark.parametrize(("name", "content"), DAMAGED)
def test_what_is_no_token_is_refused(tmp_path: Path, name: str, content: Any) -> None:
    folder = make_folder(tmp_path / "f", files={name: content})
    with pytest.raises(CheckpointError, match="fetch"):
        resolve(folder)
