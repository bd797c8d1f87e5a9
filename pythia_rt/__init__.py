"""Fast, reproducible GPT-NeoX inference on the CPU.

    >>> import pythia_rt
    >>> model = pythia_rt.Model.demo()
    >>> model.generate("The kernel", max_new_tokens=8, temperature=0).text

Importing this package is cheap: numpy, the tokenizer library and the compiled core are loaded when
the first name that needs them is used.
"""

from __future__ import annotations

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
    from pythia_rt.suites.checkpoints import Checkpoint, checkpoints
    from pythia_rt.sweeps.run import Sweep, sweep
    from pythia_rt.tokenizer import Tokenizer
else:
    from pythia_rt.convert.lazy import lazy_names

    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "convert.errors": ("CheckpointError", "FlatFileError", "MissingBasis"),
            "engine.drafts": ("Draft",),
            "engine.engine": ("Engine",),
            "engine.errors": ("Cancelled", "DeadlineExceeded", "EngineClosed", "QueueFull"),
            "engine.handle": ("Handle",),
            "engine.request": ("Request",),
            "evaluation": ("Evaluation", "evaluate"),
            "generation": ("Drafted", "Generation", "Timing"),
            "grammar": ("Constraint",),
            "loading": ("Loading",),
            "model": ("Model",),
            "sampling": ("Sampling",),
            "saved_session": ("SessionFileError",),
            "scoring": ("PairScore", "Perplexity", "Score"),
            "session": ("Session",),
            "stream": ("Stream",),
            "suites.checkpoints": ("Checkpoint", "checkpoints"),
            "sweeps.run": ("Sweep", "sweep"),
            "tokenizer": ("Tokenizer",),
        },
        modules=("convert", "harvest", "insides"),
    )

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
