"""Fast, reproducible GPT-NeoX inference on the CPU.

    >>> import pythia_rt
    >>> model = pythia_rt.Model.demo()
    >>> model.generate("The kernel", max_new_tokens=8, temperature=0).text

Importing this package is cheap: numpy, the tokenizer library and the compiled core are loaded when
the first name that needs them is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pythia_rt.convert as convert
    import pythia_rt.harvest as harvest
    import pythia_rt.insides as insides
    from pythia_rt.convert.errors import CheckpointError, FlatFileError, MissingBasis
    from pythia_rt.engine.drafts import Draft
    from pythia_rt.engine.engine import Engine
    from pythia_rt.engine.errors import Cancelled, DeadlineExceeded, EngineClosed, QueueFull
    from pythia_rt.engine.handle import Handle
    from pythia_rt.engine.request import Request
    from pythia_rt.evaluation import Evaluation, evaluate
    from pythia_rt.generation import Drafted, Generation, Timing
    from pythia_rt.grammar import Constraint
    from pythia_rt.loading import Loading
    from pythia_rt.model import Model
    from pythia_rt.sampling import Sampling
    from pythia_rt.saved_session import SessionFileError
    from pythia_rt.scoring import PairScore, Perplexity, Score
    from pythia_rt.session import Session
    from pythia_rt.stream import Stream
    from pythia_rt.suites import Checkpoint, checkpoints
    from pythia_rt.sweeps.run import Sweep, sweep
    from pythia_rt.tokenizer import Tokenizer

__version__ = "0.1.0"

__all__ = [
    "Cancelled",
    "Checkpoint",
    "CheckpointError",
    "Constraint",
    "DeadlineExceeded",
    "Draft",
    "Drafted",
    "Engine",
    "EngineClosed",
    "Evaluation",
    "FlatFileError",
    "Generation",
    "Handle",
    "Loading",
    "MissingBasis",
    "Model",
    "PairScore",
    "Perplexity",
    "QueueFull",
    "Request",
    "Sampling",
    "Score",
    "Session",
    "SessionFileError",
    "Stream",
    "Sweep",
    "Timing",
    "Tokenizer",
    "__version__",
    "checkpoints",
    "convert",
    "evaluate",
    "harvest",
    "insides",
    "sweep",
]

_HOMES = {
    "Cancelled": "pythia_rt.engine.errors",
    "Checkpoint": "pythia_rt.suites.checkpoints",
    "CheckpointError": "pythia_rt.convert.errors",
    "Constraint": "pythia_rt.grammar",
    "DeadlineExceeded": "pythia_rt.engine.errors",
    "Draft": "pythia_rt.engine.drafts",
    "Drafted": "pythia_rt.generation",
    "Engine": "pythia_rt.engine.engine",
    "EngineClosed": "pythia_rt.engine.errors",
    "Evaluation": "pythia_rt.evaluation",
    "FlatFileError": "pythia_rt.convert.errors",
    "Generation": "pythia_rt.generation",
    "Handle": "pythia_rt.engine.handle",
    "Loading": "pythia_rt.loading",
    "MissingBasis": "pythia_rt.convert.errors",
    "Model": "pythia_rt.model",
    "PairScore": "pythia_rt.scoring",
    "Perplexity": "pythia_rt.scoring",
    "QueueFull": "pythia_rt.engine.errors",
    "Request": "pythia_rt.engine.request",
    "Sampling": "pythia_rt.sampling",
    "Score": "pythia_rt.scoring",
    "Session": "pythia_rt.session",
    "SessionFileError": "pythia_rt.saved_session",
    "Stream": "pythia_rt.stream",
    "Sweep": "pythia_rt.sweeps.run",
    "Timing": "pythia_rt.generation",
    "Tokenizer": "pythia_rt.tokenizer",
    "checkpoints": "pythia_rt.suites.checkpoints",
    "evaluate": "pythia_rt.evaluation",
    "sweep": "pythia_rt.sweeps.run",
}


def __getattr__(name: str) -> object:
    if name in ("convert", "harvest", "insides"):
        return importlib.import_module(f"pythia_rt.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'pythia_rt' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value  # the next access does not come through here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
