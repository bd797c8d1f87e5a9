"""Small random models to chat with, and chat templates as the hub's models have them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from checkpoints import make_config, write_checkpoint
from tokenizer_folders import token

from pythia_rt import Model
from pythia_rt.convert import convert
from pythia_rt.model import DEMO_FOLDER

BASE = 4096  # ids of the demo's tokenizer
TOKENS = (
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>",
    "<|end_header_id|>", "<|eot_id|>",
)  # fmt: skip

TEMPLATES = {
    "chatml": (
        "{% if messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}"
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
        "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "llama3": (
        "{%- set date = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' %}\n"
        "{{- bos_token }}\n"
        "{%- if messages[0]['role'] == 'system' %}\n"
        "    {%- set system_message = messages[0]['content']|trim %}\n"
        "    {%- set messages = messages[1:] %}\n"
        "{%- else %}\n    {%- set system_message = '' %}\n{%- endif %}\n"
        "{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}\n"
        "{{- 'Today Date: ' + date + '\\n\\n' + system_message + '<|eot_id|>' }}\n"
        "{%- for message in messages %}\n"
        "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + "
        "message['content'] | trim + '<|eot_id|>' }}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n"
        "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n"
    ),
    "llama2": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] %}{% else %}"
        "{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
        "{% for message in loop_messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/...') }}{% endif %}"
        "{% if loop.index0 == 0 and system_message != false %}"
        "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + "
        "message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}"
        "{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}"
        "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "zephyr": (
        "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
        "{{ '<|user|>\\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'system' %}\n"
        "{{ '<|system|>\\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'assistant' %}\n"
        "{{ '<|assistant|>\\n'  + message['content'] + eos_token }}\n{% endif %}\n"
        "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
        "{% endfor %}"
    ),
    "mistral": (
        "{%- set ns = namespace(index=0, system='') %}\n"
        "{%- for message in messages %}\n"
        "    {%- if message['role'] == 'system' %}\n"
        "        {%- set ns.system = message['content'] + '\\n\\n' %}\n        {%- continue %}\n"
        "    {%- endif %}\n"
        "    {%- if (message['role'] == 'user') != (ns.index % 2 == 0) %}\n"
        "        {{- raise_exception('After the optional system message, conversation roles must "
        "alternate user/assistant/user/assistant/...') }}\n    {%- endif %}\n"
        "    {%- set ns.index = ns.index + 1 %}\n"
        "{%- endfor %}\n{{- bos_token }}\n"
        "{%- for message in messages %}\n"
        "    {%- if message['role'] == 'user' %}\n"
        "        {%- if loop.last %}\n            {{- '[INST] ' + ns.system }}\n"
        "        {%- else %}\n            {{- '[INST] ' }}\n        {%- endif %}\n"
        "        {{- message['content'] + ' [/INST]' }}\n"
        "    {%- elif message['role'] == 'assistant' %}\n"
        "        {%- generation %}{{- ' ' + message['content'] + eos_token }}{%- endgeneration %}\n"
        "    {%- endif %}\n{%- endfor %}"
    ),
    "json": (
        "{{ dict(a=1) | tojson }}{{ messages | tojson(indent=2) }}{{ tools is none }}"
        "{{ documents is none }}{% for message in messages if message.role == 'user' %}"
        "{% if loop.first %}{% continue %}{% endif %}{{ message.content | trim }}"
        "{% break %}{% endfor %}{{ unk_token is defined }}"
    ),
}  # fmt: skip


def make_folder(
    folder: Path,
    *,
    template: Any = None,
    tokens: tuple[str, ...] = TOKENS,
    positions: int = 512,
    plain: tuple[str, ...] = (),
    **changes: Any,
) -> Path:
    """Write a random checkpoint whose tokenizer is the demo's with `tokens` too, special ones but
    for those of `plain`; `changes` are of its tokenizer_config.json."""
    config = make_config(vocab_size=BASE + 32, max_position_embeddings=positions)
    write_checkpoint(folder, config)
    shutil.copy(DEMO_FOLDER / "tokenizer.json", folder)
    added = {str(BASE + i): token(text, special=text not in plain) for i, text in enumerate(tokens)}
    end = token("<|endoftext|>")
    values = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {"0": end, "1": token("<|padding|>"), **added},
        "bos_token": "<s>" if "<s>" in tokens else "<|endoftext|>",
        "eos_token": "</s>" if "</s>" in tokens else "<|endoftext|>",
        **changes,
    }
    if template is not None:
        values["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return folder


def make_model(folder: Path, **options: Any) -> Model:
    """Return the model of such a folder."""
    source = make_folder(folder, **options)
    return Model.load(convert(source, folder.with_suffix(".safetensors"), format="q8"))


def turns(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    """Return messages of user and assistant by turns."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    return messages + [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)
    ]
