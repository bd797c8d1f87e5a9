"""The study behind the formats below 8 bits: python -m bench.grids CHECKPOINT --text TEXT.

Every scheme is simulated: a matrix is rounded and multiplied back, and transformers runs the model
with it. Rounding is luck to a few per cent, so each scheme is tried on several random orders of the
columns, and the spread of the mean is given. docs/quantisation.md reads the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

Tensor = torch.Tensor
Rounding = Callable[[str, Tensor, Tensor], Tensor]  # part, matrix [out, in], gain [in] -> matrix

TABLES = {
    "ours": [-63, -45, -35, -27, -20, -14, -9, -4, 1, 6, 12, 18, 25, 33, 43, 56],
    "IQ4_NL's": [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113],
    "NF4's": [-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127],
    "uniform": list(range(-8, 8)),
}
PARTS = {
    "query_key_value": "qkv",
    "attention.dense": "attn_out",
    "dense_h_to_4h": "mlp_up",
    "dense_4h_to_h": "mlp_down",
    "embed_out": "head",
    "lm_head": "head",
}


@dataclass(frozen=True)
class Grid:
    """A grid of levels with a scale for each group of columns of a row."""

    levels: Tensor
    group: int = 64
    scales: str = "f16"  # f16, or 8 bits: "linear" by row, or "square" by 16 rows
    factors: tuple[float, float] = (0.8, 1.05)
    both_signs: bool = True

    def round(self, matrix: Tensor, importance: Tensor | None = None) -> Tensor:
        """Round `matrix` [out, in]; `importance` [in] weighs the squared errors."""
        shape = (len(matrix), -1, self.group)
        x = matrix.reshape(shape)
        weights = torch.ones(1) if importance is None else importance.expand_as(matrix)
        w = weights.expand_as(matrix).reshape(shape)
        scales = self._stored(self._fit(x, w))
        divisor = torch.where(scales == 0, torch.ones_like(scales), scales)
        return (self._nearest(x / divisor) * scales).reshape(matrix.shape)

    def _nearest(self, x: Tensor) -> Tensor:
        return self.levels[torch.bucketize(x, (self.levels[1:] + self.levels[:-1]) / 2)]

    def _fit(self, x: Tensor, w: Tensor) -> Tensor:
        """The search of csrc/kernels/fit_scales.inl."""
        extreme = x.gather(-1, x.abs().argmax(-1, keepdim=True))
        best, gain = torch.zeros_like(extreme), torch.zeros_like(extreme)
        ends = [self.levels[0], self.levels[-1]] if self.both_signs else [self.levels[0]]
        for factor in torch.linspace(*self.factors, 8):
            for end in ends:
                scale = extreme * factor / end
                level = self._nearest(x / torch.where(scale == 0, torch.ones_like(scale), scale))
                dot = (w * x * level).sum(-1, keepdim=True)
                squares = (w * level * level).sum(-1, keepdim=True)
                better = dot * dot / squares > gain
                best = torch.where(better, dot / squares, best)
                gain = torch.maximum(gain, dot * dot / squares)
        return best

    def _stored(self, scales: Tensor) -> Tensor:
        if self.scales == "f16":
            return scales.half().float()
        if self.scales == "linear":
            unit = scales.abs().amax(1, keepdim=True) / 127
            return (scales / unit).round() * unit
        blocks = scales.reshape(-1, 16, *scales.shape[1:])
        unit = blocks.abs().amax((1, 2), keepdim=True) / 127**2
        code = (blocks.abs() / unit).sqrt().round()
        return (code * code * unit * blocks.sign()).reshape(scales.shape)

    @property
    def bits(self) -> float:
        """Per weight, scales included."""
        scale_bits = 16 if self.scales == "f16" else 8
        return float(torch.log2(torch.tensor(len(self.levels)))) + scale_bits / self.group


def uniform(bits: int, **options: Any) -> Grid:
    """Whole numbers of `bits` bits; the finer, the less is cut off."""
    first = {5: 0.85, 6: 0.93}.get(bits, 0.98)
    levels = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)).float()
    return Grid(levels, factors=(first, 1.05 if bits < 6 else 1.03), **options)


def table(name: str = "ours", **options: Any) -> Grid:
    """A 4-bit grid of TABLES."""
    return Grid(torch.tensor(TABLES[name]).float(), **options)


def one(grid: Grid) -> Rounding:
    """All layers in one grid, the head in 8 bits."""
    return mixed(grid, grid, uniform(8))


def mixed(attention: Grid | None, mlp: Grid | None, head: Grid | None) -> Rounding:
    """A grid for each part; None leaves it as it is."""
    grids = {"qkv": attention, "attn_out": attention, "mlp_up": mlp, "mlp_down": mlp, "head": head}

    def rounding(part: str, matrix: Tensor, gain: Tensor) -> Tensor:
        grid = grids[part]
        return matrix if grid is None else grid.round(matrix)

    return rounding


def only(part: str, grid: Grid) -> Rounding:
    """One part alone, to see what its errors cost."""
    return lambda name, matrix, gain: grid.round(matrix) if name == part else matrix


def folded(grid: Grid, power: float, weighted: bool) -> Rounding:
    """The norm's gain to a power goes into the weights; the rest weighs the errors, or does not."""

    def rounding(part: str, matrix: Tensor, gain: Tensor) -> Tensor:
        if part == "head":
            return uniform(8).round(matrix)
        inside = gain.abs() ** power
        importance = (gain.abs() ** (1 - power)) ** 2 if weighted else None
        return grid.round(matrix * inside, importance) / inside

    return rounding


def schemes() -> Iterator[tuple[str, float | None, Rounding]]:
    """(name, bits per weight of the layers, rounding), one line of the table each."""
    for name in TABLES:
        grid = table(name)
        yield f"table {name}, groups of 64", grid.bits, one(grid)
    for group in (16, 32, 128):
        grid = table(group=group)
        yield f"table ours, groups of {group}", grid.bits, one(grid)
    yield "table ours, one sign of scale", 4.25, one(table(both_signs=False))
    for scales in ("linear", "square"):
        grid = table(scales=scales)
        yield f"table ours, 8-bit scales, {scales}", grid.bits, one(grid)
    yield "gain half folded, errors weighed", 4.25, folded(table(), 0.5, True)
    yield "gain wholly folded", 4.25, folded(table(), 1.0, False)
    yield "gain as it is, errors weighed", 4.25, folded(table(), 0.0, True)
    for part in ("qkv", "attn_out", "mlp_up", "mlp_down"):
        yield f"only {part} in the table", None, only(part, table())
    for bits in (5, 6, 8):
        yield f"only the head in {bits} bits", None, only("head", uniform(bits))
    square = table(scales="square")
    for bits, head in ((5, 8), (5, 6), (6, 6)):
        attention = uniform(bits, scales="square")
        average = (attention.bits + 2 * square.bits) / 3  # attention is a third of a layer
        yield (
            f"attention {bits} bits, MLP table, head {head} bits, square scales",
            average,
            mixed(attention, square, uniform(head, scales="square")),
        )


class Study:
    """A model, a text, and what transformers says about it in fp32."""

    def __init__(self, folder: Path, text: str, windows: int, window: int) -> None:
        """Load the checkpoint and its tokenizer, and compute the reference."""
        from tokenizers import Tokenizer
        from transformers import AutoModelForCausalLM

        model: Any = AutoModelForCausalLM
        self.model = model.from_pretrained(folder, dtype=torch.float32).eval()
        ids = torch.tensor(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids)
        cut = ids[: len(ids) // window * window].reshape(-1, window)
        self.tokens = cut[torch.linspace(0, len(cut) - 1, min(windows, len(cut))).long()]
        self.linears = {
            name: (next(part for key, part in PARTS.items() if name.endswith(key)), module)
            for name, module in self.model.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        self.weights = {name: m.weight.data.clone() for name, (_, m) in self.linears.items()}
        self.reference = self._log_probabilities()

    def divergence(self, rounding: Rounding, seed: int) -> float:
        """Return the mean KL divergence in nats per token after `rounding`."""
        generator = torch.Generator().manual_seed(seed)
        for name, (part, module) in self.linears.items():
            matrix = self.weights[name]
            order = torch.randperm(matrix.shape[1], generator=generator)
            rounded = rounding(part, matrix[:, order], self._gain(name, matrix)[order])
            module.weight.data = rounded[:, order.argsort()]
        found = self._log_probabilities()
        return float((self.reference.exp() * (self.reference - found)).sum(-1).double().mean())

    def _gain(self, name: str, matrix: Tensor) -> Tensor:
        layer, _, inner = name.partition(".attention.")
        norm = "input_layernorm" if inner.startswith("query") else None
        if name.endswith("h_to_4h"):
            layer, norm = name.removesuffix(".mlp.dense_h_to_4h"), "post_attention_layernorm"
        if norm is None:
            return torch.ones(matrix.shape[1])
        gain: Tensor = self.model.get_submodule(f"{layer}.{norm}").weight.data
        return gain

    @torch.no_grad()
    def _log_probabilities(self) -> Tensor:
        parts = [self.tokens[i : i + 8] for i in range(0, len(self.tokens), 8)]
        return torch.cat([torch.log_softmax(self.model(part).logits, -1) for part in parts])


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, path_type=Path))
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--windows", default=48, show_default=True, help="Spread over the text.")
@click.option("--window", default=256, show_default=True, help="Tokens of each.")
@click.option("--orders", default=3, show_default=True, help="Random orders of the columns.")
def main(checkpoint: Path, text: Path, windows: int, window: int, orders: int) -> None:
    """Print the mean KL divergence of every scheme on CHECKPOINT as a Markdown table."""
    torch.set_num_threads(1)
    study = Study(checkpoint, text.read_text(encoding="utf-8"), windows, window)
    click.echo("| scheme | bits per weight of the layers | mean KL |\n|---|---|---|")
    for name, bits, rounding in schemes():
        found = torch.tensor([study.divergence(rounding, seed) for seed in range(orders)])
        error = f" ± {found.std() / orders**0.5:.5f}" if orders > 1 else ""
        shown = "" if bits is None else f"{bits:.3f}"
        click.echo(f"| {name} | {shown} | {found.mean():.5f}{error} |")


if __name__ == "__main__":
    main()
