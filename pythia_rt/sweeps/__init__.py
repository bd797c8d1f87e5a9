"""Measuring many checkpoints of models, over machines too (docs/sweeps.md).

    >>> import pythia_rt
    >>> found = pythia_rt.sweep("EleutherAI/pythia-70m", steps="log", out="curves",
    ...                         metrics=["perplexity:text.txt"])

`run.py` has `sweep`; `plan.py` says which checkpoints there are, `metrics` what can be measured.
"""

from __future__ import annotations

from pythia_rt.sweeps.metrics import METRICS, read_metrics
from pythia_rt.sweeps.metrics.base import Measured, Metric, Value, metric
from pythia_rt.sweeps.metrics.continuations import Continuations
from pythia_rt.sweeps.metrics.divergence import Divergence
from pythia_rt.sweeps.metrics.function import Function
from pythia_rt.sweeps.metrics.given import Given, GivenField
from pythia_rt.sweeps.metrics.harness import Harness
from pythia_rt.sweeps.metrics.heads import HeadScores
from pythia_rt.sweeps.metrics.last_words import LastWords
from pythia_rt.sweeps.metrics.memorisation import Memorisation
from pythia_rt.sweeps.metrics.ngram import Ngram
from pythia_rt.sweeps.metrics.perplexity import Perplexity
from pythia_rt.sweeps.metrics.token_stats import TokenStats
from pythia_rt.sweeps.metrics.whole import whole
from pythia_rt.sweeps.processes import Processes
from pythia_rt.sweeps.ray_cluster import RayCluster
from pythia_rt.sweeps.run import Sweep, sweep

__all__ = [
    "METRICS",
    "Continuations",
    "Divergence",
    "Function",
    "Given",
    "GivenField",
    "Harness",
    "HeadScores",
    "LastWords",
    "Measured",
    "Memorisation",
    "Metric",
    "Ngram",
    "Perplexity",
    "Processes",
    "RayCluster",
    "Sweep",
    "TokenStats",
    "Value",
    "metric",
    "read_metrics",
    "sweep",
    "whole",
]
