"""How good a flat file is: how well it predicts a text, and how far it is from its source."""

from pythia_rt.evaluation.evaluator import evaluate
from pythia_rt.evaluation.reporter import reporter
from pythia_rt.evaluation.result import Comparison, Estimate, Evaluation, Side

__all__ = ["Comparison", "Estimate", "Evaluation", "Side", "evaluate", "reporter"]
