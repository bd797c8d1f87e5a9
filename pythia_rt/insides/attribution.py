"""Which parts of a model speak for a token, and against another (Elhage et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt.insides.inputs import is_number, read_texts
from pythia_rt.insides.names import Place
from pythia_rt.insides.run import Runner
from pythia_rt.insides.values import Floats
from pythia_rt.insides.weights import Weights
from pythia_rt.options import one_of
from pythia_rt.prompt import Prompt, Prompts, token_ids

if TYPE_CHECKING:
    from pythia_rt.model import Model

KINDS = ("component", "layer", "head")


@dataclass(frozen=True, eq=False)
class Attribution:
    """What each part adds to the difference of two logits (or to one logit), which is their sum.

    `labels` name the parts: "embed", what enters layer 0; "3_attn_out" and "3_mlp_out", or
    "3_layer" for both, or "3_head_5" for each head and "3_attn_bias"; and "bias", that of the final
    norm and the head.
    """

    labels: tuple[str, ...]
    values: Floats  # [parts], of a batch [texts, parts]

    @property
    def total(self) -> Floats:
        """The difference itself: float32, or [texts]."""
        total: Floats = self.values.sum(axis=-1, dtype=np.float64).astype(np.float32)
        return total

    def heads(self, n_heads: int) -> Floats:
        """Those of heads alone, [layers, heads] or [texts, layers, heads]."""
        chosen = [i for i, label in enumerate(self.labels) if "_head_" in label]
        return self.values[..., chosen].reshape(*self.values.shape[:-1], -1, n_heads)


def logit_attribution(
    model: Model,
    texts: Prompt | Prompts,
    tokens: int | Sequence[int],
    incorrect: int | Sequence[int] | None = None,
    *,
    by: str = "component",
    position: int = -1,
) -> Attribution:
    """Direct logit attribution of a text, or of each text of a list.

    Of the logit of `tokens` (an id, or one for each text), less that of `incorrect` if it is given,
    at a `position`. The final norm's scale is that of the whole stream, so that what the parts add
    can be told apart and sums to the difference: exactly in an f32 file, and up to the rounding of
    the head's inputs in a quantised one. `by` is "component", "layer" or "head".

    Raises ValueError for models whose layers norm the stream itself, which then is no sum of parts,
    and as `Model.run`.
    """
    one_of(KINDS)("by", by)
    if model.spec["block"] == "post":
        raise ValueError(
            "this model's layers norm the stream itself, so it is no sum of what parts add"
        )
    ids, is_batch = read_texts(model, texts)
    spec, runner = model.spec, Runner(model)
    n_layers = spec["n_layers"]
    points = ["attn_out", "mlp_out", *(["result"] if by == "head" else [])]
    last = ("resid_post", n_layers - 1)
    run = model.run(
        tuple(ids), [("resid_pre", 0), last, *((p, i) for i in range(n_layers) for p in points)],
        positions=position, logits=None,
    )  # fmt: skip
    labels, parts = ["embed"], [run.flat(("resid_pre", 0))]
    for layer in range(n_layers):
        attn, mlp = run.flat(("attn_out", layer)), run.flat(("mlp_out", layer))
        if by == "layer":
            labels.append(f"{layer}_layer")
            parts.append(attn + mlp)
            continue
        if by == "head":
            heads = run.flat(("result", layer))  # [texts, heads, hidden]
            labels += [f"{layer}_head_{head}" for head in range(heads.shape[1])]
            parts += list(heads.transpose(1, 0, 2))
            labels.append(f"{layer}_attn_bias")
            parts.append(attn - heads.sum(axis=1))
        else:
            labels.append(f"{layer}_attn_out")
            parts.append(attn)
        labels.append(f"{layer}_mlp_out")
        parts.append(mlp)
    direction, constant = _direction(model, tokens, incorrect, len(ids))
    stacked = np.stack(parts, axis=1)  # [texts, parts, hidden]
    reads: NDArray[Any] = direction  # what the stream is multiplied by
    if spec["final_norm"]:
        scale = runner.reading.values(Place("final_norm.scale", -1), run.flat(last).copy())
        if spec["norm"] == "layer":
            stacked = stacked - stacked.mean(axis=2, keepdims=True)
            constant = constant + direction @ model.weight("final_norm.bias")
        reads = direction * model.weight("final_norm.weight") / scale
    values = np.einsum("tpd,td->tp", stacked, reads, dtype=np.float64)
    labels.append("bias")
    found = np.concatenate([values, constant[:, None]], axis=1).astype(np.float32)
    return Attribution(tuple(labels), found if is_batch else found[0])


def _direction(
    model: Model, tokens: Any, incorrect: Any, n_texts: int
) -> tuple[Floats, NDArray[np.float64]]:
    """What the head multiplies by for the difference, [texts, hidden], and adds, [texts]."""
    # With the bias that goes with the head as it is rounded, or the parts would not sum to logits.
    head, bias = Weights(model.file).matrix("embed" if model.spec["tied_head"] else "head")
    right = _each(model, tokens, n_texts, "tokens")
    direction: Floats = head[right]
    constant: NDArray[np.float64] = bias[right].astype(np.float64)
    if incorrect is not None:
        wrong = _each(model, incorrect, n_texts, "incorrect")
        direction, constant = direction - head[wrong], constant - bias[wrong]
    return direction, constant


def _each(model: Model, tokens: Any, n_texts: int, what: str) -> NDArray[np.int32]:
    """A token for each text."""
    given = [tokens] * n_texts if is_number(tokens) else tokens
    if isinstance(given, str):
        raise ValueError(f"{what} must be token ids, not text: the tokenizer makes them of it")
    ids = token_ids(given, None, model._vocab_size)
    if len(ids) != n_texts:
        raise ValueError(f"{what} names {len(ids)} tokens for {n_texts} texts")
    return ids
