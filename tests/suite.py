"""The suite of steps in tests/data: a small model at 13 steps of its training."""

from __future__ import annotations

from pathlib import Path

SUITE = Path(__file__).resolve().parent / "data" / "suite"
STEPS = [0, *(2**n for n in range(12))]  # of which the first two are equal
