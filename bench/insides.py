"""What is inside a pass, beside TransformerLens: python -m bench.insides CHECKPOINT.

    points    how far a quantised file's values are from those of f32, point by point
    capture   tokens/s of a run that keeps every layer's residual, and of one that keeps nothing
    grid      seconds of a patching grid, every head at all positions of short prompts

CHECKPOINT is a folder in Hugging Face layout. Where transformer_lens is installed, its bridge is
beside ours (float32), on the same tokens with as many threads.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.measure import alternate
from bench.records.table import lines
from pythia_rt import Model, _core
from pythia_rt.convert import convert
from pythia_rt.insides import patch_grid
from pythia_rt.insides.lookup import Names
from pythia_rt.insides.names import BY_NAME

Ids = NDArray[np.int32]
Work = Callable[[], object]


def rate(work: Work, count: int) -> Callable[[], float]:
    """A measurement of how many of so many tokens a second `work` takes."""

    def measure() -> float:
        start = time.perf_counter()
        work()
        return count / (time.perf_counter() - start)

    return measure


def table(heads: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    return "\n".join(lines([heads, *rows]))


def prefill(model: Model, tokens: Ids) -> None:
    """Read a text without the head."""
    _core.run([model.new_session(len(tokens))], [tokens], logits="none")


def bridge_of(folder: Path, threads: int) -> Any:
    """TransformerLens' model of a checkpoint in float32; None where it is not installed."""
    try:
        import tokenizers
        import torch
        import transformers
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError:
        return None
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    maker: Any = transformers.AutoModelForCausalLM
    theirs = maker.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    # The bridge wants one, though it gets token ids.
    model = tokenizers.models.WordLevel({"<|endoftext|>": 0}, unk_token="<|endoftext|>")
    wrapper: Any = transformers.PreTrainedTokenizerFast
    tokenizer = wrapper(tokenizer_object=tokenizers.Tokenizer(model), eos_token="<|endoftext|>")
    return TransformerBridge.boot_transformers(str(folder), hf_model=theirs, tokenizer=tokenizer)


def points(models: dict[str, Model], tokens: Ids) -> str:
    """The root mean square of differences from f32, as a part of that of the values, per point."""
    plain = models["f32"]
    names = [
        name
        for place, (name, *_) in Names(plain.file.spec).all.items()
        if not BY_NAME[place.point].derived or place.point.endswith("normalized")
    ]
    clean = plain.run(tokens, names)
    rows: dict[str, list[str]] = {}
    for form, model in models.items():
        if form == "f32":
            continue
        found = model.run(tokens, names)
        errors: dict[str, list[float]] = {}
        for name in names:
            values, truth = found[name], clean[name]
            seen = np.isfinite(truth)
            error = np.square(values[seen] - truth[seen]).mean(dtype=np.float64)
            usual = np.square(truth[seen]).mean(dtype=np.float64)
            point = name.partition(".")[2].partition(".")[2] if name[:7] == "layers." else name
            errors.setdefault(point, []).append(float(np.sqrt(error / usual)))
        difference = np.square(found.logits - clean.logits).mean(dtype=np.float64)
        centred = clean.logits - clean.logits.mean(axis=1, keepdims=True)
        share = difference / np.square(centred).mean(dtype=np.float64)
        errors["logits (of their spread)"] = [float(np.sqrt(share))]
        for point, each in errors.items():
            rows.setdefault(point, [point]).append(f"{np.mean(each):.4f} ({max(each):.4f})")
    heads = ["point", *(f"{form}: mean of layers (worst)" for form in models if form != "f32")]
    return table(heads, list(rows.values()))


def capture(models: dict[str, Model], bridge: Any, tokens: Ids, repetitions: int) -> str:
    """Tokens/s with and without every layer's residual."""
    works: dict[str, Work] = {}
    for form, model in models.items():
        residuals = partial(model.run, tokens, "layers.*.resid_post")
        works[f"{form}, nothing kept"] = partial(prefill, model, tokens)
        works[f"{form}, every residual"] = partial(residuals, logits=None)
        works[f"{form}, every residual and all logits"] = residuals
    if bridge is not None:
        import torch

        ids = torch.from_numpy(tokens.astype(np.int64))[None]
        wanted = lambda name: name.endswith("hook_resid_post")  # noqa: E731
        n_layers = bridge.cfg.n_layers
        works["TransformerLens, forward"] = lambda: bridge(ids)
        works["TransformerLens, every residual"] = lambda: bridge.run_with_cache(
            ids, names_filter=wanted
        )
        works["TransformerLens, every residual, stop_at_layer"] = lambda: bridge.run_with_cache(
            ids, names_filter=wanted, stop_at_layer=n_layers
        )
    rates = alternate({name: rate(work, len(tokens)) for name, work in works.items()}, repetitions)
    rows = []
    for name, found in rates.items():
        form = name.partition(",")[0]
        base = rates.get(f"{form}, nothing kept") or rates["TransformerLens, forward"]
        row = [name, str(found), f"{found.median / base.median:.3f}"]
        if bridge is not None:
            theirs = rates["TransformerLens, every residual, stop_at_layer"]
            row.append(f"{found.median / theirs.median:.2f}")
        rows.append(row)
    heads = ["run", "tokens/s", "of the same without capture"]
    return table([*heads, "x TransformerLens"][: len(rows[0])], rows)


def grid(
    models: dict[str, Model], bridge: Any, prompts: int, length: int, most_heads: int | None
) -> str:
    """Seconds of a patching grid. Of TransformerLens' heads some are run, all take as long."""
    random = np.random.default_rng(0)
    clean = random.integers(0, 50000, (prompts, length), np.int32)
    corrupt = clean.copy()
    corrupt[:, length // 2] = random.integers(0, 50000, prompts)

    def metric(logits: NDArray[np.float32]) -> float:
        return float((logits[:, 5] - logits[:, 9]).mean())

    rows, found = [], {}
    for form, model in models.items():
        start = time.perf_counter()
        found[form] = patch_grid(model, list(clean), list(corrupt), metric, "z")
        rows.append([form, f"{time.perf_counter() - start:.1f}"])
    if bridge is None:
        return table(["grid", "seconds"], rows)
    import torch

    spec = next(iter(models.values())).spec
    ids = [torch.from_numpy(text.astype(np.int64)) for text in (clean, corrupt)]
    start = time.perf_counter()
    _, cache = bridge.run_with_cache(ids[0], names_filter=lambda name: name.endswith("hook_z"))
    places = [(i, j) for i in range(spec["n_layers"]) for j in range(spec["n_heads"])]
    step = max(1, len(places) // (most_heads or len(places)))
    before = time.perf_counter() - start
    start = time.perf_counter()
    worst, chosen = 0.0, places[::step]
    for layer, head in chosen:
        name = f"blocks.{layer}.attn.hook_z"

        def put(value: Any, hook: Any, name: str = name, head: int = head) -> Any:
            value[:, :, head] = cache[name][:, :, head]
            return value

        logits = bridge.run_with_hooks(ids[1], fwd_hooks=[(name, put)])[:, -1]
        theirs = metric(logits.float().numpy())
        if "f32" in found:
            worst = max(worst, abs(theirs - found["f32"][layer, head]))
    seconds = before + (time.perf_counter() - start) * len(places) / len(chosen)
    rows.append([f"TransformerLens ({len(chosen)} of {len(places)} heads run)", f"{seconds:.1f}"])
    times = [[*row, f"{seconds / float(row[1]):.1f}"] for row in rows]
    note = f"\nlargest difference from ours in f32: {worst:.2e}" if "f32" in found else ""
    return table(["grid", "seconds", "x TransformerLens"], times) + note


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("what", choices=("points", "capture", "grid"))
    parser.add_argument("--formats", nargs="+", default=["f32", "q8", "q4"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--most-heads", type=int, help="TransformerLens' loop runs so many at most")
    parser.add_argument("--text", type=Path, help="what points are read of; else random tokens")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        forms = list(
            dict.fromkeys([*(["f32"] if chosen.what == "points" else []), *chosen.formats])
        )
        models = {
            form: Model.load(
                convert(chosen.checkpoint, Path(temporary) / form, format=form, progress=False),
                threads=chosen.threads,
            )
            for form in forms
        }
        first = models[forms[0]]
        random = np.random.default_rng(1)
        tokens = random.integers(0, first.spec["n_tokens"], chosen.tokens, np.int32)
        if chosen.text and first.tokenizer:
            text = chosen.text.read_text()[: 12 * chosen.tokens]
            tokens = np.array(first.tokenizer.encode(text)[: chosen.tokens], np.int32)
        if chosen.what == "points":
            print(points(models, tokens))
            return
        bridge = bridge_of(chosen.checkpoint, chosen.threads)
        if bridge is None:
            print("transformer_lens is not installed: ours alone")
        if chosen.what == "capture":
            print(capture(models, bridge, tokens, chosen.repetitions))
        else:
            print(grid(models, bridge, chosen.prompts, chosen.length, chosen.most_heads))


if __name__ == "__main__":
    main()
