"""Texts of mixed length: one after another, together, and beside other runtimes."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import kinds
from bench.peers import registry
from bench.peers.isolated import Isolated
from bench.peers.protocol import Room, Runner, Source, Stepper, Tokens
from bench.serving.figures import Figure, Setting, Sizes, greedy, in_turn
from pythia_rt import Engine, Generation


def mixed(setting: Setting) -> Iterator[Figure]:
    """Tokens/s of all texts, their prompts' time included."""
    sizes, model = setting.sizes, setting.model
    prompts = [setting.tokens(n, seed) for seed, n in enumerate(lengths(sizes))]
    sampling = greedy(sizes.new)
    expected = [text.tokens for text in model.generate(prompts, sampling)]

    def rate(write: Callable[[], list[Generation]]) -> float:
        started = time.perf_counter()
        texts = write()
        seconds = time.perf_counter() - started
        if [text.tokens for text in texts] != expected:
            raise RuntimeError("the texts are others than before")
        return sum(map(len, expected)) / seconds

    def in_engine() -> list[Generation]:
        with Engine(model, prefix_bytes=0) as engine:
            handles = [engine.submit(prompt, sampling) for prompt in prompts]
            return [handle.result() for handle in handles]

    ways: dict[str, Callable[[], list[Generation]]] = {
        "one after another": lambda: [model.generate(prompt, sampling) for prompt in prompts],
        "together": lambda: model.generate(prompts, sampling),
        "engine": in_engine,
    }
    measurements: dict[str, Callable[[], float]] = {
        name: functools.partial(rate, way) for name, way in ways.items()
    }
    facts = {"tokens": sizes.new, "context": sizes.lengths[1], "sequences": sizes.prompts}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, peer in start_peers(setting, folder).items():
            stack.callback(peer.close)
            measurement = peer.measurement("mixed", int(model.spec["n_tokens"]))
            if measurement is not None:
                measurements[name] = measurement
        yield from in_turn(setting, "mixed", measurements, "tokens/s", **facts)


def lengths(sizes: Sizes) -> list[int]:
    """Of the prompts, from the shortest to the longest."""
    found: list[int] = np.linspace(*sizes.lengths, sizes.prompts, dtype=int).tolist()
    return found


@dataclass(frozen=True)
class MixedWork(kinds.Work):
    """What peers do in their processes: all prompts at once, and a token of each text a step."""

    prompts: tuple[int, ...] = ()

    @property
    def room(self) -> Room:
        """See Work."""
        each = max(self.prompts) + self.decode + 2
        return Room(each, each, len(self.prompts))

    def measurement(self, kind: str, runner: Runner, vocab_size: int) -> kinds.Measurement | None:
        """See Work; the only kind is `mixed`."""
        if not isinstance(runner, Stepper):
            return None
        texts = [kinds.random_tokens(n, vocab_size, i) for i, n in enumerate(self.prompts)]
        return functools.partial(self._rate, runner, texts)

    def _rate(self, runner: Stepper, texts: list[Tokens]) -> float:
        started = time.perf_counter()
        runner.start(*texts)
        for _ in range(self.decode):
            runner.step()
        return len(texts) * self.decode / (time.perf_counter() - started)


def start_peers(setting: Setting, folder: Path) -> dict[str, Isolated]:
    """Those that are installed, each in a process of its own; the others are named."""
    if setting.checkpoint is None:
        return {}
    sizes = setting.sizes
    work = MixedWork(1, sizes.new, 1, 1, 1, 2, tuple(lengths(sizes)))
    source = Source(setting.checkpoint, folder, setting.threads, work.room)
    found = {}
    for peer, form in [pair for name in setting.peers for pair in registry.chosen(name)]:
        try:
            load = functools.partial(registry.load, peer, form, source)
            found[f"{peer} {form}"] = Isolated(load, work)
        except RuntimeError as error:
            print(f"{peer} {form} is skipped: {error}", flush=True)
    return found
