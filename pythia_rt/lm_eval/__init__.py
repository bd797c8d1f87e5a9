"""The model `pythia_rt` of lm-evaluation-harness: importing this registers it (docs/scoring.md).

    >>> import lm_eval, pythia_rt.lm_eval
    >>> lm_eval.simple_evaluate("pythia_rt", model_args="pretrained=demo", tasks=["sciq"])

`pythia-rt lm-eval` is the harness's own command line with the model registered. Releases that look
at entry points find it by themselves. Raises ImportError without the harness, the extra `lm-eval`.
"""

from __future__ import annotations

import importlib.util

NAME = "pythia_rt"


def register() -> None:
    """Make NAME a model of the harness, if it has not found it through its entry point."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ImportError(
            "lm-evaluation-harness is not installed: install it with pip install "
            "'pythia_rt[lm-eval]'",
            name="lm_eval",
        )
    import lm_eval.models  # noqa: F401, or the harness takes our model for all there are
    from lm_eval.api.registry import model_registry

    if NAME not in model_registry:
        model_registry.register(NAME, target=f"{__name__}.model:PythiaRtLM")


register()
