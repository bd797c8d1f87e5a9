"""What a model thinks of texts that are there already: see `Model.score` and its like."""

from pythia_rt.scoring.result import PairScore, Perplexity, Score

__all__ = ["PairScore", "Perplexity", "Score"]
