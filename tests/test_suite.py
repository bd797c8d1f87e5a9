"""The suite of steps is small, and shows what a training shows: loss that falls, induction."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import torch
import transformers
from suite import STEPS, SUITE

import pythia_rt
from pythia_rt.convert import convert
from pythia_rt.suites import checkpoints
from pythia_rt.suites.audit import audit

TEXT = SUITE.parent / "technical.txt"


def test_it_is_small_and_has_all_its_steps() -> None:
    found = checkpoints(SUITE)
    assert [one.step for one in found] == STEPS
    assert all((one.bytes or 0) < 1_000_000 for one in found)
    assert sum(one.bytes or 0 for one in found) < 7_000_000


def test_step1_is_step0_and_no_other_two_are_equal() -> None:
    (group,) = audit(SUITE, deep=True).identical
    assert group.revisions == ("step0", "step1")
    assert audit(SUITE, deep=True).mixtures == ()


def repeated(period: int) -> torch.Tensor:
    """Eight texts of random tokens that come twice."""
    dice = random.Random(period)
    once = [[dice.randrange(512, 640) for _ in range(period)] for _ in range(8)]
    return torch.tensor([tokens * 2 for tokens in once])


@pytest.mark.parametrize("period", [10, 31])
def test_induction_heads_form(period: int) -> None:
    """The share of attention that goes to the token after the same one, and what follows."""
    scores, losses = {}, {}
    for step in (0, 128, 512, 2048):
        folder = SUITE / f"step{step}"
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        tokens = repeated(period)
        with torch.no_grad():
            found = model(tokens, output_attentions=True)
        again = torch.arange(period, 2 * period)
        heads = torch.stack(found.attentions)[..., again, again - period + 1].mean((1, 3))
        scores[step] = float(heads.max())
        flat = found.logits[:, period:-1].flatten(0, 1)
        losses[step] = float(
            torch.nn.functional.cross_entropy(flat, tokens[:, period + 1 :].flatten())
        )
    assert scores[0] < 0.1 and scores[128] < 0.2
    assert scores[512] > 0.7 and scores[2048] > 0.7
    assert losses[2048] < 0.6 < losses[512] < 2 < losses[128] < 5 < losses[0]


def test_it_learns_the_text_and_runs_here(tmp_path: Path) -> None:
    held_out = TEXT.read_text()[110_000:116_000]
    found = {}
    for step in (0, 64, 512):
        path = convert(SUITE / f"step{step}", tmp_path / str(step), format="f32")
        found[step] = pythia_rt.Model.load(path).perplexity(held_out, window=128).nats_per_token
    assert found[512] < 5 < found[64] < 6.2 < found[0]


def test_the_script_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import train_suite

    assert list(train_suite.STEPS) == STEPS
    monkeypatch.setattr(sys, "argv", ["train_suite", str(tmp_path), "--steps", "2"])
    train_suite.main()
    assert [one.step for one in checkpoints(tmp_path)] == [0, 1, 2]
    (group,) = audit(tmp_path, deep=True).identical
    assert group.revisions == ("step0", "step1")
    # The tokenizer does not depend on the machine.
    made, kept = (folder / "step0" / "tokenizer.json" for folder in (tmp_path, SUITE))
    assert made.read_bytes() == kept.read_bytes()
