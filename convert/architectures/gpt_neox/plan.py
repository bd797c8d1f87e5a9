"""GPT-NeoX: Pythia, GPT-NeoX-20B, Dolly v2, RedPajama-INCITE, StableLM-alpha and their fine-tunes.

Tensor names and meaning: huggingface/transformers, models/gpt_neox/modeling_gpt_neox.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...errors import CheckpointError, quote
from ...flatfile.layout import linears, vectors
from ...flatfile.spec import Spec
from ...plan import Plan, Rows, count_rows, source_of, source_rows
from ...source.tensor import SourceTensor
from ...source.unusable import refuse_parts, refuse_quantised
from .config import read_config
from .names import HEADS, NeoxTensors, read_names

SOURCE_DTYPES = ("F32", "F16", "BF16")

# Neutral names, without "layers.{i}.", and what the checkpoint calls them.
_NAMES = {
    "embed": "embed_in",
    "final_norm": "final_layer_norm",
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "qkv": "attention.query_key_value",
    "attn_out": "attention.dense",
    "mlp_up": "mlp.dense_h_to_4h",
    "mlp_down": "mlp.dense_4h_to_h",
}


def make_plan(
    config: Mapping[str, Any],
    tensors: Mapping[str, SourceTensor],
    *,
    n_tokens: int | None,
    activation: str | None,
    eos_ids: Sequence[int] = (),
) -> Plan:
    """See `Architecture.make_plan`."""
    known = read_names(tensors)
    refuse_quantised(config, known.given)
    refuse_parts(known.given)
    embedding = known.find("embed_in.weight")
    spec = read_config(config, vocab_size=_rows(embedding), n_tokens=n_tokens, eos_ids=eos_ids)
    if activation is not None:
        spec["activation"] = activation
    # Bounds the plan: a config cannot ask for more layers than there are tensors.
    if spec["n_layers"] > len(known.named):
        raise CheckpointError(
            f"config.json asks for {spec['n_layers']} layers, the checkpoint has "
            f"{len(known.named)} tensors: fetch both from the same revision"
        )
    heads = [known.named[name].name for name in HEADS if name in known.named]
    if not heads and not spec["tied_head"]:
        raise CheckpointError(
            f"tensor {quote(HEADS[0])} is missing, so this is a base model that cannot write "
            "text: give a checkpoint saved from GPTNeoXForCausalLM"
        )
    same = embedding.name if spec["tied_head"] else heads[0]
    plan = Plan(
        spec,
        {m.name: _source(f"{m.name}.weight", m.rows, spec, known, heads) for m in linears(spec)},
        {name: _source(name, size, spec, known, heads) for name, size in vectors(spec).items()},
        tuple((same, head) for head in heads if head != same),
    )
    _check_shapes(plan, tensors)
    used = {rows.tensor for rows in _all_rows(plan)} | set(heads)
    surplus = [name for name in known.given if name not in used]
    if surplus:
        raise CheckpointError(
            f"tensor {quote(surplus[0])} ({len(surplus)} in all) does not belong to a GPT-NeoX "
            "model of this config: merge adapters first, or fetch config.json and weights together"
        )
    return plan


def _source(
    neutral: str, rows: int, spec: Spec, known: NeoxTensors, heads: list[str]
) -> tuple[Rows, ...]:
    """Return where the `rows` rows of a neutral weight, bias or norm come from."""
    path, _, part = neutral.rpartition(".")
    if path == "head":
        return (Rows(heads[0], 0, rows),)
    layer, _, module = path.rpartition(".")
    name = known.find(f"{layer}{'.' if layer else ''}{_NAMES[module]}.{part}").name
    if module == "qkv":
        return tuple(_straightened(name, spec["n_heads"], spec["head_dim"]))
    return (Rows(name, 0, rows),)


def _straightened(name: str, n_heads: int, head_dim: int) -> Iterator[Rows]:
    """Yield the q, then the k, then the v of all heads, of rows stored [heads, 3, head_dim]."""
    for part in range(3):
        for head in range(n_heads):
            start = (3 * head + part) * head_dim
            yield Rows(name, start, start + head_dim)


def _check_shapes(plan: Plan, tensors: Mapping[str, SourceTensor]) -> None:
    columns = {matrix.name: matrix.columns for matrix in linears(plan.spec)}
    for name, pieces in (plan.linears | plan.vectors).items():
        tensor = tensors[source_of(pieces)]
        rows = count_rows(pieces)
        expected = (rows, columns[name]) if name in columns else (rows,)
        if tensor.shape != expected:
            raise CheckpointError(
                f"tensor {quote(tensor.name)} has the shape {list(tensor.shape)} and config.json "
                f"asks for {list(expected)}: fetch both from the same revision"
            )
        if tensor.dtype not in SOURCE_DTYPES:
            raise CheckpointError(
                f"tensor {quote(tensor.name)} is {tensor.dtype}: save the checkpoint as "
                f"{', '.join(SOURCE_DTYPES)} first"
            )


def _rows(tensor: SourceTensor) -> int:
    if len(tensor.shape) != 2:
        raise CheckpointError(f"tensor {quote(tensor.name)} is not a matrix: fetch it again")
    return tensor.shape[0]


def _all_rows(plan: Plan) -> Iterator[Rows]:
    for pieces in (*plan.linears.values(), *plan.vectors.values()):
        yield from source_rows(pieces)
