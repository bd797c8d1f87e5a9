"""Several texts at once: python -m bench.together FILE.

Texts of mixed length, one after another and together, which must be the same; and the pace of one
text while the prompt of another is read.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from pathlib import Path

import numpy as np

from pythia_rt import Generation, Model, Sampling, _core


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="a flat file")
    parser.add_argument("--threads", type=int, help="default: one per performance core")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--lengths", type=int, nargs=2, default=(16, 512), help="of the prompts")
    parser.add_argument("--new", type=int, default=64, help="tokens to write for each")
    parser.add_argument("--arriving", type=int, default=1500, help="tokens of the other prompt")
    parser.add_argument("--max-rows", type=int, nargs="+", default=(256, 64, 16), help="of a pass")
    arguments = parser.parse_args()
    model = Model.load(arguments.file, threads=arguments.threads)
    print(f"{arguments.file.name} on {model.runs_on}")
    compare(model, arguments.prompts, tuple(arguments.lengths), arguments.new)
    for max_rows in arguments.max_rows:
        arrival(model, arguments.arriving, max_rows)


def compare(model: Model, count: int, lengths: tuple[int, int], new: int) -> None:
    """Print tokens/s of texts one after another and together."""
    random = np.random.default_rng(1)
    n_tokens = int(model.spec["n_tokens"])
    prompts = [random.integers(0, n_tokens, n) for n in np.linspace(*lengths, count, dtype=int)]
    sampling = [Sampling(max_new_tokens=new, seed=seed) for seed in range(count)]
    started = time.perf_counter()
    alone: list[Generation] = [
        model.generate(prompt, how) for prompt, how in zip(prompts, sampling, strict=True)
    ]
    between = time.perf_counter()
    together = model.generate(prompts, sampling)
    ended = time.perf_counter()
    assert [text.tokens for text in alone] == [text.tokens for text in together]
    written = sum(len(text.tokens) for text in alone)
    one_by_one, at_once = between - started, ended - between
    print(
        f"{count} prompts of {lengths[0]} to {lengths[1]} tokens, {written} written: one by one "
        f"{written / one_by_one:.1f} tokens/s, together {written / at_once:.1f}, "
        f"{one_by_one / at_once:.2f} times as fast, the same tokens"
    )


def arrival(model: Model, arriving: int, max_rows: int) -> None:
    """Print the times between the tokens of a text, alone and while another's prompt is read."""
    random = np.random.default_rng(2)
    n_tokens = int(model.spec["n_tokens"])
    samplers = [_core.Sampler(n_tokens=n_tokens, seed=seed) for seed in range(2)]
    sessions = [model.new_session(1024), model.new_session(arriving + 8)]
    sessions[0].append(random.integers(0, n_tokens, 32).astype(np.int32))

    def paces(sessions: list[_core.Session], count: int | None) -> list[float]:
        times = []
        for _ in itertools.count() if count is None else range(count):
            started = time.perf_counter()
            sampled, _failed = _core.step(sessions, samplers[: len(sessions)], max_rows=max_rows)
            times.append(1e3 * (time.perf_counter() - started))
            if len(sampled) == 2:
                break
        return times

    paces(sessions[:1], 16)
    alone = paces(sessions[:1], 128)
    sessions[1].append(random.integers(0, n_tokens, arriving).astype(np.int32))
    during = paces(sessions, None)
    print(
        f"passes of {max_rows} rows: {told(alone)} ms between tokens alone, {told(during)} while "
        f"a prompt of {arriving} is read in {sum(during) / 1e3:.2f} s"
    )


def told(times: list[float]) -> str:
    """The median and the 99th percentile."""
    return f"{statistics.median(times):.1f} (p99 {np.quantile(times, 0.99):.1f})"


if __name__ == "__main__":
    main()
