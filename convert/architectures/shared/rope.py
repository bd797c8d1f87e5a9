"""Which frequencies a rotation has: whatever scales them leaves a table of them and one factor.

Source: huggingface/transformers, modeling_rope_utils.py, 5.x, in its order of operations in f32. A
power is that of doubles, rounded, so that a table is the same on every machine; torch's may differ
from it in the last bit.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .config import config_error
from .rope_config import RopeConfig

MAX_BASE = 1e30  # below it no power leaves f32
Floats = NDArray[np.float32]


class Rotation(NamedTuple):
    """`frequencies` [rotary_dim / 2], f32: the angles of one position's step, pair by pair.

    Cosines and sines are multiplied by `factor`.
    """

    frequencies: Floats
    factor: float

    @property
    def fields(self) -> dict[str, Any]:
        """What the spec says of it."""
        return {"rotary_dim": 2 * len(self.frequencies), "rope_factor": self.factor}

    @property
    def tables(self) -> dict[str, Floats]:
        """What the model holds of it."""
        return {"rope_frequencies": self.frequencies[None]} if len(self.frequencies) else {}


def make_rotation(rope: RopeConfig, head_dim: int) -> Rotation:
    """Return the rotation of heads of `head_dim` dimensions.

    Raises CheckpointError where an odd number of them would rotate, or where a frequency is none.
    """
    if rope.base >= MAX_BASE:
        raise config_error(f"has a rope_theta of {rope.base:g}: set it below {MAX_BASE:g}")
    rotary_dim = head_dim if rope.kind == "proportional" else int(head_dim * rope.fraction)
    if rotary_dim % 2:
        raise config_error(
            f"asks for a rotary_dim of {rotary_dim}, an odd number, and dimensions rotate in "
            "pairs: fix the rotated part of a head"
        )
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused below
            frequencies, factor = _scaled(rope, head_dim, rotary_dim)
        is_good = bool(np.isfinite(frequencies).all()) and 0 < factor < MAX_BASE
    except (ArithmeticError, ValueError):
        is_good = False
    if not is_good:
        raise config_error(
            f"scales its rotation, of rope_type {rope.kind!r}, to no finite frequencies: fix it"
        )
    return Rotation(frequencies, factor)


def _scaled(rope: RopeConfig, head_dim: int, rotary_dim: int) -> tuple[Floats, float]:
    given = rope.parameters
    match rope.kind:
        case "default":
            return frequencies_of(rope.base, rotary_dim), 1.0
        case "linear":
            return frequencies_of(rope.base, rotary_dim) / np.float32(given["factor"]), 1.0
        case "proportional":
            rotated = int(rope.fraction * head_dim // 2)
            found = np.zeros(head_dim // 2, np.float32)
            found[:rotated] = frequencies_of(rope.base, head_dim, rotated)
            return found / np.float32(given.get("factor", 1.0)), 1.0
        case "llama3":
            return _llama3(frequencies_of(rope.base, rotary_dim), given), 1.0
        case "yarn":
            return _yarn(rope, rotary_dim), _yarn_factor(given)
    raise ValueError(rope.kind)


def frequencies_of(base: float, rotary_dim: int, pairs: int | None = None) -> Floats:
    """Return 1 / base^(2i / rotary_dim) for each pair i [rotary_dim / 2], or the first `pairs`."""
    found: Floats = np.float32(1) / _powers(base, rotary_dim, pairs)
    return found


def _powers(base: float, rotary_dim: int, pairs: int | None = None) -> Floats:
    exponents = np.arange(0, rotary_dim, 2, dtype=np.float32)[:pairs] / np.float32(rotary_dim)
    return np.array([math.pow(base, float(exponent)) for exponent in exponents], np.float32)


def _llama3(frequencies: Floats, given: dict[str, Any]) -> Floats:
    """Long waves turn slower, short ones as they did, and those between are mixed."""
    factor, original = given["factor"], given["original_max_position_embeddings"]
    low, high = given["low_freq_factor"], given["high_freq_factor"]
    waves = np.float32(1) / frequencies * np.float32(2 * math.pi)  # as torch divides a number
    is_long, is_short = waves > np.float32(original / low), waves < np.float32(original / high)
    slowed = np.where(is_long, frequencies / np.float32(factor), frequencies)
    turns = np.float32(1) / waves * np.float32(original)
    part = (turns - np.float32(low)) / np.float32(high - low)
    mixed = (np.float32(1) - part) * slowed / np.float32(factor) + part * slowed
    return np.where(is_long | is_short, slowed, mixed)


def _yarn(rope: RopeConfig, rotary_dim: int) -> Floats:
    """Pairs that turn often keep their frequency, those that turn rarely get a part of it.

    Between `beta_fast` and `beta_slow` turns over the original context lies a ramp.
    """
    given = rope.parameters
    original = given["original_max_position_embeddings"]

    def pair_with(turns: float) -> float:
        waves = math.log(original / (turns * 2 * math.pi))
        return rotary_dim * waves / (2 * math.log(rope.base))

    begin, end = pair_with(given.get("beta_fast", 32)), pair_with(given.get("beta_slow", 1))
    if given.get("truncate", True):
        begin, end = math.floor(begin), math.ceil(end)
    begin, end = max(begin, 0), min(end, rotary_dim - 1)
    if begin == end:
        end += 0.001
    pairs = np.arange(rotary_dim // 2, dtype=np.float32)
    ramp = np.clip((pairs - np.float32(begin)) / np.float32(end - begin), 0, 1)
    kept = np.float32(1) - ramp
    powers = _powers(rope.base, rotary_dim)
    slowed = np.float32(1) / (np.float32(given["factor"]) * powers)
    result: Floats = slowed * (np.float32(1) - kept) + np.float32(1) / powers * kept
    return result


def _yarn_factor(given: dict[str, Any]) -> float:
    def of(scale: float) -> float:
        return 0.1 * scale * math.log(given["factor"]) + 1 if given["factor"] > 1 else 1.0

    if "attention_factor" in given:
        return float(given["attention_factor"])
    if "mscale" in given and "mscale_all_dim" in given:
        return of(given["mscale"]) / of(given["mscale_all_dim"])
    return of(1)
