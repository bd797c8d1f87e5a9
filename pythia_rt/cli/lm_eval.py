"""`pythia-rt lm-eval`: lm-evaluation-harness, with our model."""

from __future__ import annotations

import click


@click.command(
    "lm-eval",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run_harness(arguments: tuple[str, ...]) -> None:
    """Run lm-evaluation-harness; needs the extra lm-eval.

    ARGUMENTS are its own. The model is pythia_rt, unless --model names another.
    """
    try:
        from pythia_rt.lm_eval.__main__ import hand_over
    except ImportError as error:
        if error.name != "lm_eval":
            raise
        raise ValueError(str(error)) from None
    hand_over(arguments)
