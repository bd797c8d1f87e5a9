"""What the options of other libraries are called here."""

from __future__ import annotations

from collections.abc import Sequence

# Names that transformers, vLLM, llama.cpp, Ollama and OpenAI's clients use for an option of ours.
_RENAMED = {
    "max_new_tokens": (
        "max_tokens", "max_length", "max_completion_tokens", "max_gen_len", "n_predict",
        "num_predict",
    ),
    "temperature": ("temp",),
    "typical_p": ("typical",),
    "repetition_penalty": ("repeat_penalty", "rep_pen", "penalty_repeat"),
    "seed": ("random_seed", "manual_seed", "generator"),
    "stop": ("stop_strings", "stop_sequences", "stop_words", "stop_str", "until"),
    "stop_token_ids": (
        "eos_token_id", "eos_token_ids", "eos_id", "eos_ids", "stop_tokens", "stop_ids",
        "stop_token_id", "end_token", "terminators",
    ),
}  # fmt: skip
_OURS = {theirs: ours for ours, names in _RENAMED.items() for theirs in names}

# Names of what is had in another way.
_ADVICE = {
    "do_sample": "temperature=0 is greedy, any other draws",
    "greedy": "temperature=0 is greedy, any other draws",
    "num_beams": "there is no beam search, temperature=0 is greedy",
    "beam_size": "there is no beam search, temperature=0 is greedy",
    "n": "Model.samples writes several texts",
    "best_of": "Model.samples writes several texts",
    "num_return_sequences": "Model.samples(n=...) writes several texts",
    "assistant_model": "draft=Draft.model(...)",
    "prompt_lookup_num_tokens": "draft='lookup'",
    "logits_processor": "processors=[...]",
    "guided_json": "json_schema=...",
    "guided_regex": "regex=...",
    "guided_grammar": "grammar=...",
    "bad_words_ids": "logit_bias={id: -inf} forbids a token",
    "suppress_tokens": "logit_bias={id: -inf} forbids a token",
    "ignore_eos": "logit_bias={id: -inf} forbids the end token",
    "min_new_tokens": "logit_bias={id: -inf} forbids the end token",
    "min_tokens": "logit_bias={id: -inf} forbids the end token",
    "stream": "Model.stream gives the text in pieces",
    "streamer": "Model.stream gives the text in pieces",
    "logprobs": "Generation.logprobs always has them",
    "output_scores": "Generation.logprobs always has them",
    "prompt_logprobs": "echo=True has them, and Model.score for a text alone",
    "kv_format": "it is an option of Model.load and Model.from_pretrained",
    "threads": "it is an option of Model.load and Model.from_pretrained",
    "device": "it is an option of Model.load and Model.from_pretrained",
}


def ours(name: str) -> str | None:
    """Our name of the option that others call `name`, if it is one of theirs."""
    return _OURS.get(name)


def near_option(name: str, options: Sequence[str]) -> str:
    """What to use in place of an option that there is not: some words, or none for want of any.

    `options` are the names there are, one of which `name` may be a slip of.
    """
    import difflib  # rarely needed, and every start would wait for it

    if name in _ADVICE:
        return _ADVICE[name]
    near = [_OURS[name]] if name in _OURS else difflib.get_close_matches(name, options, n=1)
    return f"use {near[0]}" if near else ""
