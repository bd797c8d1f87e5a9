"""Drafts, of models whose agreement is known: what they bring, and what they cost in vain."""

from __future__ import annotations

import functools
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from bench import shapes
from bench.serving import constructed
from bench.serving.figures import Figure, Setting, greedy, in_turn
from pythia_rt import Draft, Model
from pythia_rt.convert import convert

_AGREES = 0.7  # of the tokens
_SHORT = 32


def drafts(setting: Setting) -> Iterator[Figure]:
    """Tokens/s of a text with and without drafts, and the part that was accepted."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _drafts(setting, Path(folder))


def _drafts(setting: Setting, folder: Path) -> Iterator[Figure]:
    target_shape, draft_shape = setting.pair
    after = constructed.next_tokens(shapes.PYTHIA[target_shape].vocabulary)

    def model_of(shape: str, name: str, following: constructed.Map) -> Model:
        config = shapes.config(shape) | {"vocab_size": len(after)}
        source = constructed.write(folder / name, config, following)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has no tokenizer
            flat = convert(source, folder / f"{name}.flat", format=setting.format)
        (source / "model.safetensors").unlink()
        return Model.load(flat, threads=setting.threads)

    model = model_of(target_shape, "target", after)
    agrees = model_of(draft_shape, "agrees", constructed.agreeing(after, _AGREES))
    never = model_of(draft_shape, "never", constructed.agreeing(after, 0))

    repeating, others = 1, constructed.REPEATING + 1  # where a text of each circle begins
    ways: dict[str, tuple[int, Draft | None]] = {
        "no draft": (others, None),
        f"{draft_shape}, agrees in {_AGREES:.0%}": (others, Draft.model(agrees)),
        f"{draft_shape}, never agrees": (others, Draft.model(never)),
        "lookup, nothing repeats": (others, Draft.lookup()),
        "no draft, the text repeats": (repeating, None),
        "lookup, the text repeats": (repeating, Draft.lookup()),
    }
    accepted: dict[str, list[float]] = {name: [] for name in ways}

    def rate(name: str) -> float:
        token, draft = ways[name]
        prompt = _text(after, token, _SHORT if token == others else 2 * constructed.REPEATING)
        started = time.perf_counter()
        text = model.generate(prompt, greedy(setting.sizes.new), draft=draft)
        seconds = time.perf_counter() - started
        if text.tokens != _text(after, int(after[prompt[-1]]), setting.sizes.new):
            raise RuntimeError("the text is not that of the model's map")
        if text.drafted is not None:
            accepted[name].append(100 * text.drafted.rate)
        return len(text.tokens) / seconds

    measurements = {name: functools.partial(rate, name) for name in ways}
    facts = {"tokens": setting.sizes.new, "context": _SHORT}
    yield from in_turn(setting, "drafts", measurements, "tokens/s", **facts)
    for name, values in accepted.items():
        if values:
            yield Figure("drafts", f"{name}: accepted", values, "%", **facts)


def _text(after: constructed.Map, token: int, count: int) -> list[int]:
    """So many tokens of a circle."""
    found = [token]
    while len(found) < count:
        found.append(int(after[found[-1]]))
    return found
