"""The harness's own command line, with the model registered: python -m pythia_rt.lm_eval."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pythia_rt.lm_eval import NAME

_OTHER = ("ls", "validate")


def hand_over(arguments: Sequence[str]) -> None:
    """Run the harness's command line; the model is ours unless they name another. Raises SystemExit
    as it does."""
    from lm_eval.__main__ import cli_evaluate

    given = list(arguments)
    names_model = any(each.split("=")[0] in ("--model", "-M") for each in given)
    asks_for_help = not given or {"-h", "--help"} & {*given}
    if not names_model and not asks_for_help and given[0] not in _OTHER:
        given += ["--model", NAME]
    sys.argv[1:] = given
    cli_evaluate()


if __name__ == "__main__":
    hand_over(sys.argv[1:])
