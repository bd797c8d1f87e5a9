"""Tokenizers that are not byte-level: as the library has them, whole and piece by piece."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from convert_sources import make_config, write_checkpoint
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_folders import make_folder
from tokenizer_folders import ours as folder_tokenizer
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from pythia_rt import Model
from pythia_rt.convert import convert
from pythia_rt.detokenizer import Detokenizer
from pythia_rt.evaluation import text as text_module
from pythia_rt.tokenizer import Tokenizer

LETTERS = list("abcdehlnorst.,'")
SPACE = "\u2581"


def unigram() -> tokenizers.Tokenizer:
    words = ["<unk>", SPACE, *LETTERS, f"{SPACE}the", f"{SPACE}a", "er", f"{SPACE}{SPACE}"]
    made = tokenizers.Tokenizer(
        models.Unigram([(word, -float(i)) for i, word in enumerate(words)], unk_id=0)
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return made


def sentencepiece() -> tokenizers.Tokenizer:
    """As LLaMA's: characters, and bytes for those it does not have."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += [SPACE, *LETTERS, f"{SPACE}t", "er", "\u00e9", f"{SPACE}{SPACE}"]
    merges = [(SPACE, "t"), ("e", "r"), (SPACE, SPACE)]
    made = tokenizers.Tokenizer(
        models.BPE(
            {word: i for i, word in enumerate(words)},
            merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens(["<s>", "</s>"])
    return made


def word_piece() -> tokenizers.Tokenizer:
    words = ["[UNK]", *LETTERS, "the", *(f"##{letter}" for letter in LETTERS), "##er"]
    vocabulary = {word: i for i, word in enumerate(words)}
    made = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.add_tokens([AddedToken("[user]")])
    return made


def word_ends() -> tokenizers.Tokenizer:
    words = ["<unk>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS), "er</w>"]
    made = tokenizers.Tokenizer(
        models.BPE(
            {word: i for i, word in enumerate(words)},
            [("e", "r</w>")],
            unk_token="<unk>",
            end_of_word_suffix="</w>",
        )
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.BPEDecoder()
    return made


def words_alone() -> tokenizers.Tokenizer:
    words = ["<unk>", "the", "a", "rose", "is"]
    made = tokenizers.Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def bytes_in_a_sequence() -> tokenizers.Tokenizer:
    """Byte-level, but its decoder does more."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(Regex("[0-9]"), "#")])
    return made


def bytes_apart() -> tokenizers.Tokenizer:
    """As sentencepiece's, with a decoder of which no token's bytes follow."""
    made = sentencepiece()
    made.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Replace(Regex(f"{SPACE}+"), " ")]
    )
    return made


KINDS = [
    unigram, sentencepiece, word_piece, word_ends, words_alone, bytes_in_a_sequence, bytes_apart,
]  # fmt: skip


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def made(request: pytest.FixtureRequest) -> tokenizers.Tokenizer:
    return request.param()


@pytest.fixture(scope="module")
def ours(made: tokenizers.Tokenizer) -> Tokenizer:
    return Tokenizer(made.to_str().encode())


def streamed(tokenizer: Tokenizer, ids: list[int]) -> str:
    detokenizer = Detokenizer(tokenizer)
    return "".join(map(detokenizer.feed, ids)) + detokenizer.flush()


def characters(content: bytes) -> str:
    """Each character that the bytes begin with, and U+FFFD for each byte that begins none."""
    text = ""
    while content:
        for size in (1, 2, 3, 4):
            try:
                text += content[:size].decode()
            except UnicodeDecodeError:
                continue
            content = content[size:]
            break
        else:
            text += "\ufffd"
            content = content[1:]
    return text


def expected(library: tokenizers.Tokenizer, ids: list[int]) -> str:
    """What the library decodes; of sentencepiece's kind a byte spoils no character beside it."""
    whole = library.decode(ids, skip_special_tokens=False)
    names = [name for i in ids if (name := library.id_to_token(i)) is not None]
    if library.to_str() != sentencepiece().to_str() or not any(n[:3] == "<0x" for n in names):
        return str(whole)
    runs = [n[:3] == "<0x" for n in names]
    text = ""
    at = 0
    spoilt = False
    while at < len(names):
        end = at
        while end < len(names) and runs[end] == runs[at]:
            end += 1
        if runs[at]:
            content = bytes(int(n[3:5], 16) for n in names[at:end])
            text += characters(content)
            spoilt = spoilt or "\ufffd" in characters(content)
        else:
            text += "".join(names[at:end]).replace(SPACE, " ")
        at = end
    text = text.removeprefix(" ")
    assert spoilt or text == whole
    return text


@given(text=st.text(st.sampled_from(" \n\u00e9\u4e2d\U0001f600abehrst12.',")))
@settings(deadline=None)
def test_texts(made: tokenizers.Tokenizer, ours: Tokenizer, text: str) -> None:
    ids = ours.encode(text)
    assert ids == made.encode(text).ids
    assert ours.decode(ids) == made.decode(ids, skip_special_tokens=False)
    assert streamed(ours, ids) == ours.decode(ids)


@given(data=st.data())
@settings(deadline=None, max_examples=examples(300))
def test_any_ids(made: tokenizers.Tokenizer, ours: Tokenizer, data: st.DataObject) -> None:
    few = data.draw(st.lists(st.integers(0, made.get_vocab_size()), min_size=1, max_size=6))
    ids = data.draw(st.lists(st.sampled_from(few), max_size=400))
    assert ours.decode(ids) == expected(made, ids)
    assert streamed(ours, ids) == ours.decode(ids)


@pytest.mark.parametrize("first", range(0, 256, 5))
def test_runs_of_bytes(first: int) -> None:
    """A byte of no character spoils none beside it: what is whole is shown at once."""
    library = sentencepiece()
    tokenizer = Tokenizer(library.to_str().encode())
    for text in ("\u4e2d\u6587", "\U0001f600a\u00fcb"):
        ids = tokenizer.encode(text)
        for i in range(len(ids) + 1):
            broken = [*ids[:i], 3 + first, *ids[i:]]
            whole = expected(library, broken)
            assert streamed(tokenizer, broken) == tokenizer.decode(broken) == whole


def test_pieces_come_before_the_end() -> None:
    tokenizer = Tokenizer(sentencepiece().to_str().encode())
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.feed(token) for token in tokenizer.encode("the \u4e2d\u6587  a")]
    assert pieces == ["t", "h", "e", " ", "", "", "\u4e2d", "", "", "\u6587", "  ", "a"]


def test_one_space_is_lost_once() -> None:
    tokenizer = Tokenizer(sentencepiece().to_str().encode())
    for text in (" ", "  ", "   the", " the  a ", "the"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == streamed(tokenizer, ids) == text
        assert b"".join(map(tokenizer.token_bytes, ids)) == f" {text}".encode()


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_goes_on(kind: Any) -> None:
    """What continues a text has no space before it that is not there."""
    tokenizer = Tokenizer(kind().to_str().encode())
    assert tokenizer.encode("the", continues=True)  # also where it is the first
    if tokenizer.byte_map is not None:
        for first, then in (
            ("the", "rose"),
            ("the", " rose"),
            ("a ", "  b"),
            ("", " a"),
            ("a", ""),
        ):
            ids = tokenizer.encode(first) + tokenizer.encode(then, continues=True)
            assert tokenizer.decode(ids) == (first + then if first else then[1:])


def test_ids_of_no_token(ours: Tokenizer, made: tokenizers.Tokenizer) -> None:
    known = [1, 2]
    assert ours.decode([1, -1, 10**12, 1 << 40, 2]) == ours.decode(known)
    assert ours.token_bytes(made.get_vocab_size()) == b""
    with pytest.raises(ValueError, match="whole numbers"):
        ours.decode([True])


def test_what_a_token_adds_to_a_text() -> None:
    words = Tokenizer(word_piece().to_str().encode())
    ids = {name: words.encode(name)[0] for name in ("the", "[user]")}
    assert words.token_bytes(ids["the"]) == b" the"
    bytes_too = Tokenizer(sentencepiece().to_str().encode())
    assert bytes_too.token_bytes(3 + 0xE4) == b"\xe4"


def test_the_start_of_a_text_whose_words_are_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a token may span the end of a word, no start of a file has the tokens of the whole."""
    monkeypatch.setattr(text_module, "_FIRST_BYTES_PER_TOKEN", 1)
    data = json.loads(sentencepiece().to_str())
    data["model"]["vocab"]["e\u2581"] = len(data["model"]["vocab"])
    data["model"]["merges"].append(["e", "\u2581"])
    tokenizer = Tokenizer(json.dumps(data).encode())
    assert tokenizer.joins_words
    assert not any(Tokenizer(kind().to_str().encode()).joins_words for kind in KINDS)
    path = tmp_path / "text"
    path.write_text("the rose " * 30)
    ids = tokenizer.encode(path.read_text())
    for count in range(2, 40):
        assert text_module.read_tokens(path, tokenizer, 400, count).tolist() == ids[:count]


@pytest.mark.parametrize("kind", [unigram, word_piece, word_ends, words_alone])
def test_a_model_with_one_runs(tmp_path: Path, kind: Any) -> None:
    library = kind()
    config = make_config(eos_token_id=None)
    folder = write_checkpoint(tmp_path / "source", config=config, tokenizer={})
    (folder / "tokenizer.json").write_text(library.to_str())
    model = Model.load(convert(folder, tmp_path / "flat", format="f32"))
    result = model.generate([1, 2], max_new_tokens=40, seed=1)
    assert result.text == library.decode(result.tokens, skip_special_tokens=False)
    assert model.logits([1, 2]).shape == (2, 100)
    assert len(model.score([[1, 2, 3]])[0]) == 2
    assert model.generate("the a", max_new_tokens=3, seed=1).tokens
    stop = result.text[3:6]
    if stop.strip():
        stopped = model.generate([1, 2], max_new_tokens=40, seed=1, stop=stop)
        assert stopped.finish_reason == "stop"
        assert result.text.startswith(stopped.text + stop)


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        ("PreTrainedTokenizerFast", {}),
        ("LlamaTokenizer", {}),
        ("LlamaTokenizerFast", {"legacy": True}),
        ("LlamaTokenizer", {"add_prefix_space": False}),
    ],
)
@pytest.mark.parametrize("model_type", ["gpt_neox", "llama", "mistral"])
def test_sentencepiece_by_its_class(
    tmp_path: Path, cls: str, options: dict[str, Any], model_type: str
) -> None:
    """LLaMA's class takes vocabulary and merges alone and builds the rest anew; not Mistral's."""
    transformers = pytest.importorskip("transformers")
    config = {"tokenizer_class": cls, "additional_special_tokens": ["<|user|>"], **options}
    folder = make_folder(
        tmp_path / "f",
        config=lambda data: data.update(model_type=model_type),
        files={"tokenizer_config.json": config},
    )
    library = sentencepiece()
    library.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    (folder / "tokenizer.json").write_text(library.to_str())
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    mine = folder_tokenizer(folder)
    for text in ("the rose", " the", "", "a  b", "the<s>a</s> the <|user|> b", "\u4e2d x", "<s> a"):
        ids = mine.encode(text)
        assert ids == theirs(text).input_ids
        assert mine.decode(ids) == streamed(mine, ids) == theirs.decode(ids)


@pytest.mark.parametrize("kind", [unigram, sentencepiece, word_piece])
@pytest.mark.parametrize("cls", ["GPTNeoXTokenizer", None])
def test_a_class_that_cannot_build_it_is_not_asked(tmp_path: Path, kind: Any, cls: Any) -> None:
    """transformers fails or reads nonsense: GPT-NeoX's class is for byte-level BPE."""
    config = {} if cls is None else {"tokenizer_class": cls}
    folder = make_folder(tmp_path / "f", files={"tokenizer_config.json": config})
    (folder / "tokenizer.json").write_text(kind().to_str())
    text = "the rose, a er."
    assert folder_tokenizer(folder).encode(text) == kind().encode(text).ids
