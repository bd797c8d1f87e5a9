"""How many examples hypothesis draws: few and always the same, or many and new ones (proofs).

PYTHIA_RT_EXAMPLES says how many times as many as a test asks for; unset is once. Tests that always
draw the same examples never fail by chance, on a change that has nothing to do with it.
"""

from __future__ import annotations

import os

from hypothesis import settings

FACTOR = int(os.environ.get("PYTHIA_RT_EXAMPLES", "1"))


def examples(n: int) -> int:
    """What `max_examples` is, of a test that draws n in every run."""
    return n * FACTOR


def load_profile() -> None:
    """Make this the default of all tests; before the modules with tests are imported."""
    settings.register_profile(
        "chosen", deadline=None, max_examples=examples(100), derandomize=FACTOR == 1
    )
    settings.load_profile("chosen")
