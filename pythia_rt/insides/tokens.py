"""How likely each token of a text is to the model, and how sure that is of what comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core
from pythia_rt.insides.inputs import Ids, read_texts
from pythia_rt.insides.logit_blocks import logit_blocks
from pythia_rt.insides.values import Floats
from pythia_rt.overflow import first_not_finite
from pythia_rt.prompt import Prompt, Prompts
from pythia_rt.scoring.windows import choose

if TYPE_CHECKING:
    from pythia_rt.model import Model


class TokenStats(NamedTuple):
    """Of every token of a text but the first, [n - 1], given those before it."""

    tokens: Ids  # the tokens themselves
    logprob: Floats  # ln of its probability; its surprisal in nats is the negative of that
    entropy: Floats  # of the distribution that it was drawn from, in nats
    rank: NDArray[np.int32]  # how many tokens were likelier: 0 for the likeliest
    top1: NDArray[np.int32]  # the likeliest token, the lowest id of equals


def token_stats(
    model: Model,
    texts: Prompt | Prompts,
    *,
    window: int | None = None,
    stride: int | None = None,
) -> Any:
    """`TokenStats` of a text (a str, or token ids), or a list of them for a list of texts.

    Probabilities are over all raw logits, those of `Model.score` to the bit, whose windows these
    are: texts may be of any length. Logits are there for a few hundred tokens at a time. Raises
    ValueError as `Model.score` does, RuntimeError where logits are not finite.
    """
    window, stride = choose(window, stride, model.max_positions)
    ids, is_batch = read_texts(model, texts, of_any_length=True)
    found = [_empty(text[1:]) for text in ids]
    for text, first, logits in logit_blocks(model, ids, window, stride):
        row = first_not_finite(logits)
        if row is not None:
            raise model._not_finite(ids[text][max(0, first + row + 1 - window) : first + row + 1])
        place = slice(first, first + len(logits))
        stats = found[text]
        judged = _core.token_stats(logits, stats.tokens[place], threads=model.threads)
        stats.logprob[place], stats.entropy[place], stats.rank[place], stats.top1[place] = judged
    return found if is_batch else found[0]


def _empty(tokens: Ids) -> TokenStats:
    n = len(tokens)
    return TokenStats(
        tokens,
        logprob=np.empty(n, np.float32),
        entropy=np.empty(n, np.float32),
        rank=np.empty(n, np.int32),
        top1=np.empty(n, np.int32),
    )
