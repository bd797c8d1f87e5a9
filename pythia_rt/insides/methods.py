"""What a `Model` does to show and to change what is inside a pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from pythia_rt.prompt import Prompt, Prompts

if TYPE_CHECKING:
    from pythia_rt.insides.edits import Edits, PerText
    from pythia_rt.insides.inputs import Positions
    from pythia_rt.insides.lookup import Capture
    from pythia_rt.insides.result import Run
    from pythia_rt.insides.run import Sink
    from pythia_rt.model import Model


class Insides:
    """Methods of `Model`."""

    def run(
        self,
        texts: Prompt | Prompts,
        capture: Capture = (),
        *,
        positions: Positions | Sequence[Positions] | None = None,
        stop_after_layer: int | None = None,
        start_at: tuple[int, Any] | None = None,
        edits: Edits | PerText = (),
        layers: Sequence[int] | None = None,
        logits: str | None = "all",
        dtype: str = "f32",
        sink: Sink | None = None,
    ) -> Run:
        """Run a text (a str, or token ids), or a list of texts, and keep what is at points inside.

        `capture` names points: "layers.3.resid_post", ("resid_post", 3), TransformerLens'
        "blocks.3.hook_resid_post", globs such as "layers.*.z", a predicate of names, or a list of
        these; docs/interpretability.md has the table. Values are those of the checkpoint in
        transformers, whatever the weight format has balanced: float32, or float16 with
        dtype="f16". `positions` (numbers, a slice, or a list of one for each text) restricts what
        is kept; with `sink(name, text, positions, values)` each pass's rows go there, and nothing
        is kept.

        `logits` are those after "all" tokens or after the "last" one, or None: then the head does
        not run. The run stops after `stop_after_layer`, without logits, and starts with
        `start_at=(layer, stream)`, the residual stream [n, hidden_size] that enters the layer, or
        an earlier `Run` that captured it. `layers` is the order in which layers run, each at most
        once. Layers below 0 count from the end.

        `edits` change what the pass goes on with, and what is captured, in their order: `Zero`,
        `Scale`, `Add`, `Replace`, `Mean`, or a tuple (name, function): function(values, at) gets
        [n, ...] of a pass's tokens, of scores and patterns [n, heads, keys], writes to it or
        returns another array, and `at` (`At`) says where. For a batch they are of all its texts, or
        of each one with `PerText`.

        Raises ValueError, before anything runs, for names of no point, for a point that the model
        lacks, for what does not fit and for contradictory arguments; OverflowError for values that
        float16 cannot hold; and what a function raises. Texts are checked as `generate` does.
        """
        from pythia_rt.insides.run import Runner  # few need it

        return Runner(cast("Model", self)).run(
            texts,
            capture,
            positions=positions,
            stop_after_layer=stop_after_layer,
            start_at=start_at,
            edits=edits,
            layers=layers,
            logits=logits,
            dtype=dtype,
            sink=sink,
        )
