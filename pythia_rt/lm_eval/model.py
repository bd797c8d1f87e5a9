"""The model that lm-evaluation-harness runs its tasks with."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from lm_eval.api.model import TemplateLM
from lm_eval.utils import simple_parse_args_string
from tqdm import tqdm

from pythia_rt.chat.choose import Format, choose_format
from pythia_rt.lm_eval.chats import render_chat
from pythia_rt.lm_eval.generation import MAX_GEN_TOKS, Plan, plan
from pythia_rt.lm_eval.opening import open_model
from pythia_rt.model import Model
from pythia_rt.options import check_names, whole_number_from
from pythia_rt.prompt import no_tokenizer
from pythia_rt.scoring.pairs import prefix_id
from pythia_rt.tokenizer import Tokenizer

_LOG = logging.getLogger(__name__)
# Requests between two looks at the progress; what they share is read once.
_SCORED_TOGETHER = 512
_WRITTEN_TOGETHER = 64
_SEED = 1234  # the harness's own for torch

Item = TypeVar("Item")


class PythiaRtLM(TemplateLM):  # type: ignore[misc]  # the harness has no types
    """Runs a pythia_rt model. Results do not depend on batch_size, which has no effect.

    The model_args are the arguments of the constructor. `pretrained` is a hub id, a folder, a GGUF
    or a flat file, "demo" for the bundled model, or from Python a `Model`; `revision` or, of a
    Pythia's training, `step` names what to fetch of a hub id, and `format` what to convert it to,
    "q8" unless said otherwise. `device`, `gpu_layers`, `threads`, `kv_format`, `cache_dir` and
    `local_files_only` are those of `Model.from_pretrained`. `max_length` tokens are read at a time,
    by default the model's context; `max_gen_toks` are written where a task does not say. With
    `chat_format` chats have the format of that name. `seed` is that of texts that are sampled.

    Raises ValueError for bad arguments, for a model without a tokenizer or a token that begins or
    ends texts, and what loading raises.
    """

    backend = "causal"

    def __init__(
        self,
        pretrained: str | os.PathLike[str] | Model,
        *,
        revision: str | None = None,
        step: int | None = None,
        format: str | None = None,
        device: str | None = None,
        gpu_layers: int | None = None,
        threads: int | None = None,
        kv_format: str | None = None,
        cache_dir: str | None = None,
        local_files_only: bool = False,
        max_length: int | None = None,
        max_gen_toks: int = MAX_GEN_TOKS,
        chat_format: str | None = None,
        seed: int = _SEED,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        loading = {
            "device": None if device is None else device.split(":")[0],  # "cuda:0"
            "gpu_layers": gpu_layers,
            "threads": threads,
            "kv_format": kv_format,
        }
        if isinstance(pretrained, Model):
            self.model = pretrained
        else:
            if local_files_only:
                loading["local_files_only"] = True
            self.model = open_model(
                pretrained,
                revision=revision,
                step=step,
                format=format,
                cache_dir=cache_dir,
                **loading,
            )
        tokenizer = self.model.tokenizer
        if tokenizer is None:
            raise no_tokenizer("the harness needs one")
        self._tokenizer: Tokenizer = tokenizer
        prefix = prefix_id(self.model.file, tokenizer)
        if prefix is None:
            raise ValueError("this model names no token that begins or ends a text")
        self._prefix: int = prefix
        longest = self.model.max_positions
        self._max_length = (
            longest
            if max_length is None
            else whole_number_from(1, longest, "tokens")("max_length", max_length)
        )
        self._max_gen_toks = max_gen_toks
        self._chat_format = chat_format
        self._seed = seed
        self._special = {
            token["id"] for token in self.model.file.text["added_tokens"] if token["special"]
        }

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> PythiaRtLM:
        """Make one of "name=value,name=value" and of what stands on the command line besides."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> PythiaRtLM:
        """The same of a dict, which wins.

        The harness's device is "cuda:0" where nobody names another: a CUDA device if there is one.
        """
        besides = {name: value for name, value in (additional_config or {}).items() if value}
        if str(besides.get("device")).startswith("cuda"):
            besides["device"] = "auto"
        check_names(arg_dict, list(inspect.signature(cls).parameters))
        if "pretrained" not in arg_dict:
            raise ValueError("model_args names no model: give pretrained=...")
        return cls(**(besides | dict(arg_dict)))

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text; that before a text, where there is none."""
        ends = self.model.spec["eos_ids"]
        return int(ends[0]) if ends else self._prefix

    @property
    def prefix_token_id(self) -> int:
        """The token before a text with nothing before it."""
        return self._prefix

    @property
    def max_length(self) -> int:
        """Tokens that are read at a time."""
        return self._max_length

    @property
    def max_gen_toks(self) -> int:
        """Tokens that are written where a task does not say how many."""
        return self._max_gen_toks

    @property
    def tokenizer_name(self) -> str:
        """What tells caches of requests of different models apart."""
        return str(self.model.file.metadata["source"]).replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What the harness keeps beside its results."""
        about = self.model.file.metadata
        return {
            "model_source": about["source"],
            "model_format": about["recipe"],
            "model_data_sha256": about["data_sha256"],
            "model_kv_format": self.model.kv_format,
            "model_device": self.model.runs_on,
        }

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **_: Any,
    ) -> list[int]:
        """Token ids, with those that the tokenizer puts before a text unless it begins so."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self._tokenizer.decode([self._prefix]))
        ids = self._tokenizer.encode(string, add_special_tokens)
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def tok_decode(self, tokens: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of tokens."""
        return self._tokenizer.decode(
            token for token in tokens if not (skip_special_tokens and token in self._special)
        )

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        pairs = [self._cut(*request) for request in requests]
        order = sorted(range(len(pairs)), key=pairs.__getitem__)  # what shares a beginning meets
        for numbers in _pieces(order, _SCORED_TOGETHER, "scoring", disable_tqdm):
            scores = self.model.score_pairs([pairs[number] for number in numbers])
            for number, score in zip(numbers, scores, strict=True):
                answers[number] = (score.total, score.is_greedy)
                texts = requests[number][0]
                if texts is not None:
                    self.cache_hook.add_partial("loglikelihood", texts, answers[number])
        return answers

    def _cut(
        self, texts: tuple[str, str] | None, context: list[int], continuation: list[int]
    ) -> tuple[list[int], list[int]]:
        """As much of the context as there is room for."""
        room = self._max_length + 1 - len(continuation)
        if not continuation or room < 1:
            what = (
                f"has {len(continuation)} tokens, more than max_length {self._max_length}"
                if continuation
                else "has no tokens of its own"
            )
            raise ValueError(f"a continuation {what}: {texts and texts[1]!r:.80}")
        if len(context) > room:
            _LOG.warning(
                "A context of %d tokens loses the first %d: max_length is %d.",
                len(context),
                len(context) - room,
                self._max_length,
            )
        return context[-room:], continuation

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """ln of the probability of each text, in windows of `max_length` tokens."""
        totals: list[float] = []
        for some in _pieces(requests, _WRITTEN_TOGETHER, "scoring texts", disable_tqdm):
            texts = [[self._prefix, *self.tok_encode(request.args[0])] for request in some]
            for request, score in zip(
                some, self.model.score(texts, window=self._max_length), strict=True
            ):
                totals.append(score.total)
                self.cache_hook.add_partial("loglikelihood_rolling", request.args, score.total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """A continuation of each context, up to where its task says."""
        given: list[tuple[str, Mapping[str, Any]]] = [request.args for request in requests]
        plans = [
            plan(kwargs, end=self.eot_token_id, seed=seed, max_gen_toks=self._max_gen_toks)
            for seed, (_, kwargs) in enumerate(given, self._seed)
        ]
        prompts = [self._prompt(text, each) for (text, _), each in zip(given, plans, strict=True)]
        written = [""] * len(given)
        order = sorted(range(len(given)), key=lambda number: -len(prompts[number]))
        for numbers in _pieces(order, _WRITTEN_TOGETHER, "writing", disable_tqdm):
            results = self.model.generate(
                [prompts[number] for number in numbers],
                [plans[number].sampling for number in numbers],
            )
            for number, result in zip(numbers, results, strict=True):
                text = self.tok_decode(result.tokens)
                for stop in filter(None, plans[number].until):
                    text = text.split(stop)[0]
                written[number] = text
                self.cache_hook.add_partial("generate_until", given[number], text)
        return written

    def _prompt(self, text: str, each: Plan) -> list[int]:
        room = self._max_length - each.sampling.max_new_tokens
        if room < 1:
            raise ValueError(
                f"{each.sampling.max_new_tokens} tokens to write leave no room for a prompt in "
                f"max_length {self._max_length}: ask for fewer with max_gen_toks"
            )
        return self.tok_encode(text, left_truncate_len=room) or [self._prefix]

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The text of a chat in the model's format."""
        return render_chat(
            self._format, self._tokenizer, chat_history, opened=add_generation_prompt
        )

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """What tells formats apart: their names, or the template itself."""
        if chat_template is False or chat_template is None:
            return None
        if isinstance(chat_template, str):
            self._chat_format = chat_template
        name = self._format.name
        templates: Mapping[str, str] = self.model.file.text["chat_templates"]
        return templates.get(name, name)

    @property
    def _format(self) -> Format:
        return choose_format(self.model.file, self._chat_format)


def _pieces(items: Sequence[Item], size: int, what: str, disable: bool) -> Iterator[Sequence[Item]]:
    with tqdm(total=len(items), desc=f"pythia_rt, {what}", disable=disable) as bar:
        for begin in range(0, len(items), size):
            piece = items[begin : begin + size]
            yield piece
            bar.update(len(piece))
