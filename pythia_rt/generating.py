"""What a `Model` does to write texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast, overload

from pythia_rt import _core
from pythia_rt.engine.prepare import new_scheduler, prepare
from pythia_rt.engine.request import OF_SAMPLES, OF_TEXT, as_request
from pythia_rt.prompt import Prompt, Prompts, list_of_prompts, no_tokenizer
from pythia_rt.sampling import Sampling, one_for_each
from pythia_rt.stream import Stream

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pythia_rt.engine.job import Job
    from pythia_rt.engine.options import SamplesOptions, TextOptions
    from pythia_rt.generation import Generation
    from pythia_rt.model import Model


class Generating:
    """Methods of `Model`. They run in the caller's thread, as an engine's own does."""

    @overload
    def generate(
        self, prompt: Prompt, sampling: Sampling | None = None, **options: Unpack[TextOptions]
    ) -> Generation: ...

    @overload
    def generate(
        self,
        prompt: Prompts,
        sampling: Sampling | Sequence[Sampling] | None = None,
        **options: Unpack[TextOptions],
    ) -> list[Generation]: ...

    def generate(
        self,
        prompt: Prompt | Prompts,
        sampling: Sampling | Sequence[Sampling] | None = None,
        **options: Unpack[TextOptions],
    ) -> Generation | list[Generation]:
        """Continue `prompt` (a str, or token ids) and return the new text with its tokens.

        A list of prompts gives a list of texts, written in passes through the model that they
        share, which is several times as fast as one after another; each has the tokens that it has
        alone. `sampling` may be a list too, one for each prompt.

        Options are the fields of `Sampling`, which replace those of `sampling`, and besides those
        of `TextOptions`. Without a seed each text draws a new one, `Generation.seed`. Writing ends
        at the context's end if that comes before `max_new_tokens`. Raises ValueError for a bad
        option, an empty prompt, one that leaves no room in the context, or ids outside the
        vocabulary, before anything is written; RuntimeError where numbers leave the range of a
        format, with what helps; MemoryError where the cache has no room; and what a processor
        raises.
        """
        prompts = list_of_prompts(prompt)
        if prompts is None:
            job = self._job(cast(Prompt, prompt), cast("Sampling | None", sampling), options)
            return self._run([job])[0].results()[0]
        jobs = []
        for number, (text, given) in enumerate(
            zip(prompts, one_for_each(sampling, len(prompts)), strict=True), 1
        ):
            try:
                jobs.append(self._job(text, given, options))
            except ValueError as error:
                raise ValueError(f"prompt {number} of {len(prompts)}: {error}") from None
        return [job.results()[0] for job in self._run(jobs)]

    def samples(
        self,
        prompt: Prompt,
        sampling: Sampling | None = None,
        **options: Unpack[SamplesOptions],
    ) -> list[Generation]:
        """`n` texts that continue one prompt, which is read once and whose memory they share.

        With a seed the first text has that one, and the next ones count up from it, so each is the
        text that `generate` gives for its seed. Of `best_of` texts the n with the highest mean
        log-probability of their tokens are returned, the best first. Other options and errors are
        those of `generate`.
        """
        return self._run([self._job(prompt, sampling, options, OF_SAMPLES)])[0].results()

    def stream(
        self, prompt: Prompt, sampling: Sampling | None = None, **options: Unpack[TextOptions]
    ) -> Stream:
        """Like `generate`, but yield the text in pieces as it comes; `Stream.result` has the rest.

        The pieces together are `Generation.text`. Raises the same errors, before the first piece,
        and ValueError for a model without a tokenizer.
        """
        if self._model.tokenizer is None:
            raise no_tokenizer("it has no text to stream, so use generate with token ids")
        return Stream(new_scheduler(self._model), self._job(prompt, sampling, options))

    def _job(
        self,
        prompt: Prompt,
        sampling: Sampling | None,
        options: Any,
        names: frozenset[str] = OF_TEXT,
    ) -> Job:
        return prepare(self._model, as_request(prompt, sampling, options, names))

    def _run(self, jobs: list[Job]) -> list[Job]:
        """Write all to their ends. Raises what the first one that fails does."""
        # Nobody waits for a single token: prompts fill every pass.
        scheduler = new_scheduler(self._model, pace=_core.Pace(math.inf))
        for job in jobs:
            scheduler.add(job)
        while not scheduler.is_idle:
            for job in scheduler.advance():
                if job.error is not None:
                    raise job.error
        return jobs

    @property
    def _model(self) -> Model:
        return cast("Model", self)
