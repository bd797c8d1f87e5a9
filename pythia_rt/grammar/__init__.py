"""Texts that a grammar takes, through llguidance (`pip install 'pythia_rt[grammar]'`).

A `Constraint` is what is asked for. `Constraint.compiled` makes it ready for a tokenizer, once, and
`Compiled.start` gives what follows one text: the masks for `_core.Sampler.allow`.
"""

from pythia_rt.grammar.compiled import Compiled
from pythia_rt.grammar.constraint import Constraint
from pythia_rt.grammar.follower import Follower

__all__ = ["Compiled", "Constraint", "Follower"]
