"""What is inside a model while it reads a text, in the terms of its checkpoint.

`Model.run` gives values at points and takes edits; what is made of them stands here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pythia_rt.insides.ablation import ablate_grid
    from pythia_rt.insides.attribution import Attribution, logit_attribution
    from pythia_rt.insides.distances import Divergence, divergence
    from pythia_rt.insides.edits import Add, At, Mean, PerText, Replace, Scale, Zero
    from pythia_rt.insides.heads import head_scores
    from pythia_rt.insides.hidden import hidden_states, logit_lens, unembed
    from pythia_rt.insides.patching import patch_grid
    from pythia_rt.insides.result import Run
    from pythia_rt.insides.sums import Moments, moments
    from pythia_rt.insides.tokens import TokenStats, token_stats
else:
    from pythia_rt.convert.lazy import lazy_names

    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "ablation": ("ablate_grid",),
            "attribution": ("Attribution", "logit_attribution"),
            "distances": ("Divergence", "divergence"),
            "edits": ("Add", "At", "Mean", "PerText", "Replace", "Scale", "Zero"),
            "heads": ("head_scores",),
            "hidden": ("hidden_states", "logit_lens", "unembed"),
            "patching": ("patch_grid",),
            "result": ("Run",),
            "sums": ("Moments", "moments"),
            "tokens": ("TokenStats", "token_stats"),
        },
    )

__all__ = [
    "Add",
    "At",
    "Attribution",
    "Divergence",
    "Mean",
    "Moments",
    "PerText",
    "Replace",
    "Run",
    "Scale",
    "TokenStats",
    "Zero",
    "ablate_grid",
    "divergence",
    "head_scores",
    "hidden_states",
    "logit_attribution",
    "logit_lens",
    "moments",
    "patch_grid",
    "token_stats",
    "unembed",
]
