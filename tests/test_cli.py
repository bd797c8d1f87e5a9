"""The command line: what is written where, every option's effect, one sentence per error."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import click
import pytest
from commands import good, refused, run

import pythia_rt
from pythia_rt import Model
from pythia_rt.cli import main
from pythia_rt.model import DEMO_FOLDER
from pythia_rt.sampling import SamplingOptions

COMMAND = [sys.executable, "-m", "pythia_rt"]
OPTIONS = typing.get_type_hints(SamplingOptions)
GREEDY = ["--temperature", "0", "--max-new-tokens", "12"]


@pytest.fixture(autouse=True)
def use_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHIA_RT_CACHE", str(cache))


@pytest.fixture(scope="module")
def flat(model: Model, cache: Path) -> Path:
    return next((cache / "flat").glob("demo-q4-*.safetensors"))


# generate


def test_text_on_stdout_and_speed_on_stderr(model: Model) -> None:
    result = good("generate", "The kernel", *GREEDY)
    expected = model.generate("The kernel", temperature=0, max_new_tokens=12)
    assert result.stdout == expected.text + "\n"
    assert re.search(
        r"^prefill 2 tokens at [\d.]+ tokens/s, decode 12 tokens at [\d.]+ tokens/s "
        rf"\(ended by length; {model.isa}, \d+ threads\)$",
        result.stderr.strip(),
    )


def test_quiet(model: Model) -> None:
    assert good("generate", "The kernel", "--quiet", *GREEDY).stderr == ""


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_the_prompt_from_stdin(arguments: list[str]) -> None:
    expected = good("generate", "The kernel é", *GREEDY).stdout
    for text in ("The kernel é", "The kernel é\n"):
        assert good("generate", *arguments, *GREEDY, input=text.encode()).stdout == expected
    assert good("generate", *arguments, *GREEDY, input="The kernel é\n\n").stdout != expected


def test_every_kind_of_model(flat: Path, tmp_path: Path) -> None:
    expected = good("generate", "The", *GREEDY).stdout
    assert good("generate", "The", "--model", flat, *GREEDY).stdout == expected
    folder = good("generate", "The", "--model", DEMO_FOLDER, "--quiet", *GREEDY)
    assert folder.stdout == expected
    assert folder.stderr == ""
    missing = refused("generate", "The", "--model", "some/missing", "--local-files-only")
    assert "some/missing is not in the cache" in missing


def test_every_sampling_option_is_passed_on(model: Model) -> None:
    options: dict[str, Any] = {
        "max_new_tokens": 40, "temperature": 1.3, "top_k": 50, "top_p": 0.9, "min_p": 0.01,
        "typical_p": 0.9, "repetition_penalty": 1.2, "presence_penalty": 0.3,
        "frequency_penalty": 0.2, "seed": 11,
    }  # fmt: skip
    assert set(options) | {"logit_bias", "stop", "stop_token_ids"} == set(OPTIONS)
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    plain = good("generate", "The", "--seed", "11", "--max-new-tokens", "40").stdout
    for leave_out in [None, *sorted(set(options) - {"seed"})]:
        kept = {name: value for name, value in options.items() if name != leave_out}
        shown = [a for a, name in zip(arguments, options, strict=True) if name != leave_out]
        expected = model.generate("The", **kept).text
        assert good("generate", "The", *shown).stdout == expected + "\n" != plain


def test_repeated_options(model: Model) -> None:
    text = good("generate", "The", *GREEDY).stdout
    first, second = text[10:14], text[5:9]
    cut = good("generate", "The", *GREEDY, "--stop", first, "--stop", second).stdout
    assert cut == text[: text.index(second)] + "\n"
    assert model.tokenizer is not None
    [a], [b] = model.tokenizer.encode(" the"), model.tokenizer.encode(" of")
    biased = good(
        "generate", "The", *GREEDY, "--logit-bias", f"{a}=500", "--logit-bias", f"{b}=1000"
    ).stdout
    assert biased == " of" * 12 + "\n"
    banned = good("generate", "The", *GREEDY, "--logit-bias", f"{a}=-inf").stdout
    assert " the" not in banned
    assert model.tokenizer is not None
    first, *others = model.generate("The", temperature=0, max_new_tokens=12).tokens
    stops = ["--stop-token-id", others[5], "--stop-token-id", others[2]]
    assert good("generate", "The", *GREEDY, *map(str, stops)).stdout == (
        model.tokenizer.decode([first, *others[:2]]) + "\n"
    )


@pytest.mark.parametrize("seed", [[], ["--seed", "random"]])
def test_a_random_seed(seed: list[str]) -> None:
    texts = {good("generate", "The", *seed).stdout for _ in range(3)}
    assert len(texts) > 1


def test_threads_format_and_cache_format(tmp_path: Path) -> None:
    one = good("generate", "The", "--threads", "1", *GREEDY)
    assert "1 threads)" in one.stderr
    hot = ["--temperature", "1.2", "--seed", "0"]
    plain = good("generate", "The", *hot).stdout
    assert good("generate", "The", *hot, "--format", "q8").stdout != plain
    good("generate", "The", "--cache-dir", tmp_path, *GREEDY)
    assert list((tmp_path / "flat").glob("demo-q4-*"))
    good("generate", "The", "--kv-format", "f32", *GREEDY)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--temperature", "-1"], "--temperature must be a finite number of at least 0"),
        (["--temperature", "nan"], "--temperature must be"),
        (["--top-p", "0"], "--top-p must be"),
        (
            ["--max-new-tokens", "0"],
            "--max-new-tokens must be at least 1, not 0: to judge a text",
        ),
        (["--stop", ""], "--stop must not hold an empty string"),
        (["--seed", "-3"], "--seed must be"),
        (["--logit-bias", "99999=1"], "--logit-bias names token 99999"),
        (["--logit-bias", "1=nan"], "--logit-bias"),
        (["--stop-token-id", "4096"], "--stop-token-id names token 4096"),
        (["--threads", "0"], "--threads must be"),
        (["--threads", "4097"], "the processors that this process may use, not 4097"),
        (["--kv-format", "f8"], "--kv-format must be one of f16, f32, q8"),
        (["--format", "q3"], "format 'q3' is unknown"),
        (["--model", "no such model!"], "is no folder and no hub id"),
        (["--model", str(DEMO_FOLDER / "README.md")], "README.md"),
    ],
)
def test_bad_values(arguments: list[str], sentence: str) -> None:
    assert sentence in refused("generate", "The", *arguments)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--seed", "often"], "neither a whole number nor 'random'"),
        (["--logit-bias", "5"], "is not ID=VALUE"),
        (["--top-k", "many"], "not a valid integer"),
        (["--nonsense"], "No such option"),
        (["--revision", "main"], "--revision is for hub models"),
        (["--model", str(DEMO_FOLDER), "--revision", "main"], "--revision is for hub models"),
    ],
)
def test_bad_usage(arguments: list[str], sentence: str) -> None:
    assert sentence in refused("generate", "The", *arguments, status=2)


@pytest.mark.parametrize("option", [["--format", "q4"], ["--cache-dir", "x"], ["--revision", "x"]])
def test_options_that_a_flat_file_would_ignore(flat: Path, option: list[str]) -> None:
    assert option[0] in refused("generate", "The", "--model", flat, *option, status=2)


def test_bad_prompts() -> None:
    assert "the prompt is empty" in refused("generate", "")
    assert "the prompt is empty" in refused("generate", input=b"\n")
    sentence = refused("generate", input=b"ab\xffcd")
    assert "is not UTF-8: byte 0xff at offset 2" in sentence
    assert "do not fit into the context of 2048" in refused("generate", input="a 1 " * 2000)


def test_an_unwritable_cache_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = good("generate", "The", "--cache-dir", tmp_path / "file", "--quiet", *GREEDY)
    assert result.stdout == good("generate", "The", *GREEDY).stdout
    assert re.fullmatch(r"Note: .*the cache cannot be written.*\n", result.stderr)


# convert and info


def test_convert_and_info(tmp_path: Path, model: Model) -> None:
    path = tmp_path / "demo.safetensors"
    result = good("convert", DEMO_FOLDER, path, "--format", "q8", "--head", "f16", "--quiet")
    assert result.output == ""
    facts = json.loads(good("info", path, "--json").stdout)
    assert facts["formats"]["layers.0.qkv"] == facts["formats"]["embed"] == "q8"
    assert facts["formats"]["head"] == "f16"
    assert facts["spec"]["activation"] == "gelu"
    again = refused("convert", DEMO_FOLDER, path)
    assert "exists" in again
    options = ["--force", "--embed", "f32", "--activation", "gelu_tanh", "--threads", "1"]
    assert "wrote" in good("convert", DEMO_FOLDER, path, *options).stderr
    facts = json.loads(good("info", path, "--json").stdout)
    assert facts["formats"]["embed"] == "f32"
    assert facts["spec"]["activation"] == "gelu_tanh"


def test_info_for_people(flat: Path, model: Model) -> None:
    shown = good("info", flat).stdout
    facts = json.loads(good("info", flat, "--json").stdout)
    for word in ("demo", model.isa, "q4", "q8", "hidden_size", facts["data_sha256"]):
        assert word in shown
    for name, value in facts["spec"].items():
        assert f"  {name} " in shown, f"{name} and {value} are one word"
    for digest in facts["source_digests"].values():
        assert digest in shown
    assert "verified" not in shown
    assert "(verified)" in good("info", flat, "--verify").stdout


def test_info_shows_no_control_characters(flat: Path, tmp_path: Path) -> None:
    """Whoever wrote a file could have had a terminal clear itself."""
    raw = flat.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    names = ("source", "revision", "recipe", "producer", "quantised_before", "no_tokenizer")
    for name in names:
        header["__metadata__"][f"pythia_rt.{name}"] = f"\x1b[2J{name}"
    header["__metadata__"]["pythia_rt.source_digests"] = '{"\\u001b[2Jx": "\\u001b[2Jy"}'
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    path = tmp_path / "changed"
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    shown = good("info", path).stdout
    assert "\x1b" not in shown
    for name in (*names[:-1], "x", "y"):
        assert f"'\\x1b[2J{name}'" in shown


def test_info_counts_bits(flat: Path) -> None:
    facts = json.loads(good("info", flat, "--json").stdout)
    bits = facts["bits_per_weight"]
    assert set(bits) == {"embed", "layers", "head", "vectors", "total"}
    assert 4.4 <= bits["layers"] <= 4.5
    assert 6 <= bits["head"] <= 6.2
    assert bits["vectors"] == 32
    # 6 layers of 12 matrices of 256 x 256 and two of 4096 x 256, and the vectors.
    vectors = 6 * (13 * 256) + 2 * 256
    assert facts["parameters"] == 6 * 12 * 256**2 + 2 * 4096 * 256 + vectors
    weights = facts["bytes"] - len((DEMO_FOLDER / "tokenizer.json").read_bytes())
    assert bits["total"] == pytest.approx(8 * weights / facts["parameters"], rel=0.02)


def test_verify_finds_a_flipped_bit(flat: Path, tmp_path: Path) -> None:
    content = bytearray(flat.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(content)
    good("info", damaged)
    assert "has changed since it was written" in refused("info", damaged, "--verify")


def test_bad_files(tmp_path: Path) -> None:
    assert "does not exist" in refused("info", tmp_path / "missing")
    assert "folder" in refused("info", tmp_path)
    assert "is a safetensors file but no flat file" in refused(
        "info", DEMO_FOLDER / "model.safetensors"
    )
    refused("convert", tmp_path, tmp_path / "out.safetensors", "--quiet")
    refused("convert", DEMO_FOLDER, tmp_path / "no/such/folder/out.safetensors", "--quiet")
    assert not list(tmp_path.iterdir())


# The program as a process


def test_version_and_help() -> None:
    assert pythia_rt.__version__ in good("--version").stdout
    for name in main.commands:
        shown = good(name, "--help").stdout
        for parameter in main.commands[name].params:
            if isinstance(parameter, click.Option):
                assert parameter.help, parameter.name
                assert parameter.opts[-1] in shown


def test_python_dash_m(model: Model, tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "generate", "The", *GREEDY], capture_output=True, check=True, cwd=tmp_path
    )
    assert done.stdout == good("generate", "The", *GREEDY).stdout.encode()


def test_utf8_whatever_the_locale(model: Model, tmp_path: Path) -> None:
    assert model.tokenizer is not None
    [token] = model.tokenizer.encode("é")[-1:]
    bias = [f"--logit-bias={t}=1000" for t in (token,)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [*COMMAND, "generate", "The", "--max-new-tokens=2", *bias],
        capture_output=True, check=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.decode("utf-8")


def endless(model: Model, folder: Path) -> subprocess.Popen[bytes]:
    """A command whose text has more bytes than its pipe: it does not end before they are read."""
    assert model.tokenizer is not None
    decode = model.tokenizer.decode
    longest = max(range(model.spec["n_tokens"]), key=lambda token: len(decode([token])))
    command = [*COMMAND, "generate", "The", "--max-new-tokens=2000", f"--logit-bias={longest}=1000"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        bufsize=0,
        pipesize=4096,
    )


def test_ctrl_c_is_status_130_without_a_traceback(model: Model, tmp_path: Path) -> None:
    process = endless(model, tmp_path)
    assert process.stdout is not None
    process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.strip() == b""


def test_ctrl_c_while_modules_are_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of C that is interrupted as it is made raises ImportError of it."""

    def interrupted(**_: Any) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error

    monkeypatch.setattr(main.commands["info"], "callback", interrupted)
    result = run("info", "file")
    assert (result.exit_code, result.output) == (130, "")

    def missing(**_: Any) -> None:
        raise ImportError("no such library")

    monkeypatch.setattr(main.commands["info"], "callback", missing)
    assert isinstance(run("info", "file").exception, ImportError)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no full device")
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["info", "--help"], ["info"]])
def test_a_full_disk_is_one_line(flat: Path, tmp_path: Path, arguments: list[str]) -> None:
    command = [*COMMAND, *arguments, *([flat] if arguments == ["info"] else [])]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == b"Error: [Errno 28] No space left on device\n"


def test_a_broken_pipe_is_quiet(model: Model, tmp_path: Path) -> None:
    with endless(model, tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(20)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
