"""The names of Pythia's models on the hub, and at which steps each was saved.

Source: EleutherAI/pythia, README.md; the hub's collections of Pythia and PolyPythias.
"""

from __future__ import annotations

import re

OWNER = "EleutherAI"
SIZES = ("14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
SEEDED = ("14m", "31m", "70m", "160m", "410m")  # trained nine times more each
VARIANTS = {
    "160m": (
        *(f"data-seed{n}" for n in (1, 2, 3)),
        *(f"weight-seed{n}" for n in (1, 2, 3)),
        "alldropout",
        "attndropout",
        "hiddendropout",
    ),
    "14m": ("warmup01",),
    "70m": ("warmup01",),
}
INTERVENED = ("70m", "410m", "1.4b", "6.9b")  # pronouns swapped late in the training
LAST = 143000
_EVERY = range(1000, LAST + 1, 1000)
_V0_SIZES = ("70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
_NAME = re.compile(r"(?:EleutherAI/)?(?P<short>pythia-.+)")


def model_names() -> list[str]:
    """The hub ids of all of Pythia's models that are known here."""
    short = [f"pythia-{size}{deduped}" for size in SIZES for deduped in ("", "-deduped")]
    short += [f"pythia-{size}{d}-v0" for size in _V0_SIZES for d in ("", "-deduped")]
    short += [f"pythia-{size}-seed{n}" for size in SEEDED for n in range(1, 10)]
    short += [f"pythia-{size}-{what}" for size, all_ in VARIANTS.items() for what in all_]
    short += [f"pythia-intervention-{size}-deduped" for size in INTERVENED]
    return [f"{OWNER}/{name}" for name in short]


def known_steps(name: str) -> list[int] | None:
    """The steps at which the model `name` was saved, in order; None where that is not known here.

    154 of most: 0, the powers of two up to 512, and every thousand up to 143000; of the models
    called v0 the thousands alone. What was saved once may be missing on the hub, or be a wrong
    file.
    """
    match = _NAME.fullmatch(name)
    if match is None or f"{OWNER}/{match['short']}" not in model_names():
        return None
    if "intervention" in match["short"] or "warmup" in match["short"]:
        return None
    if match["short"].endswith("-v0"):
        return list(_EVERY)
    return [0, *(2**n for n in range(10)), *_EVERY]
