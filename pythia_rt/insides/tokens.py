"""How likely each token of a text is to the model, and how sure that is of what comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pythia_rt.insides.inputs import Ids, read_texts
from pythia_rt.insides.logit_blocks import logit_blocks
from pythia_rt.insides.values import Floats
from pythia_rt.overflow import first_not_finite
from pythia_rt.prompt import Prompt, Prompts
from pythia_rt.scoring.windows import choose

if TYPE_CHECKING:
    from pythia_rt.model import Model

_TOGETHER = 32  # rows: what is computed of them stays in a cache of the processor


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

    Probabilities are over all raw logits, as those of `Model.score`, whose windows these are: texts
    may be of any length. Logits are there for a few hundred tokens at a time. Raises ValueError as
    `Model.score` does, RuntimeError where logits are not finite.
    """
    window, stride = choose(window, stride, model.max_positions)
    ids, is_batch = read_texts(model, texts, of_any_length=True)
    found = [_empty(text[1:]) for text in ids]
    for text, first, logits in logit_blocks(model, ids, window, stride):
        row = first_not_finite(logits)
        if row is not None:
            raise model._not_finite(ids[text][max(0, first + row + 1 - window) : first + row + 1])
        for start in range(0, len(logits), _TOGETHER):
            rows = logits[start : start + _TOGETHER]
            _judge(rows, found[text], slice(first + start, first + start + len(rows)))
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


def _judge(logits: Floats, stats: TokenStats, place: slice) -> None:
    """Write what logits [n, vocab_size], which are lost, say of the tokens after them."""
    each = np.arange(len(logits))
    top = logits.argmax(axis=1)
    logits -= logits[each, top][:, None]
    own = logits[each, stats.tokens[place]]
    stats.top1[place] = top
    stats.rank[place] = np.count_nonzero(logits > own[:, None], axis=1)
    weights = np.exp(logits)
    total = weights.sum(axis=1, dtype=np.float64)
    stats.logprob[place] = own - np.log(total)
    # ln(total) - the mean of the logits under p; an infinitely unlikely one adds nothing.
    stats.entropy[place] = np.log(total) - np.einsum("nv,nv->n", weights, logits) / total
