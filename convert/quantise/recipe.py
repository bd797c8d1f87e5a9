"""Recipes: which weight format each matrix gets."""

from __future__ import annotations

from collections.abc import Iterable

from pythia_rt import _core

from ..errors import Sentence

# Which format the parts of a model get, where a recipe is more than one format for all of them. For
# bits well spent: an error in attention, in its values above all, costs several times as much as
# one in the MLP, and attention is a third of a layer (docs/quantisation.md has the figures). The
# embedding is read one row at a time and may be large; the head is most of a small model's work.
RECIPES = {
    "q4": {
        "embed": "q8",
        "qkv": "q5",
        "attn_out": "q5",
        "mlp_up": "q4",
        "mlp_down": "q4",
        "head": "q6",
    },
}


def choose_formats(
    recipe: str,
    linears: Iterable[str],
    *,
    embed: str | None = None,
    head: str | None = None,
    attention: str | None = None,
    mlp: str | None = None,
) -> dict[str, str]:
    """Return {linear name: format} for the matrices named in `linears`.

    `recipe` is a name of RECIPES, or a format for all matrices; `embed`, `head`, `attention` (qkv
    and attn_out) and `mlp` override what it says about these. Raises ValueError for a name that is
    no format, and for `head` of a tied model.
    """
    known = _core.format_names()
    options = {"format": recipe, "embed": embed, "head": head, "attention": attention, "mlp": mlp}
    for option, name in options.items():
        if name is not None and name not in known:
            raise ValueError(f"{option} {name!r} is unknown: choose one of {', '.join(known)}")
    parts = dict(RECIPES.get(recipe, {}))
    for part, name in (
        ("embed", embed),
        ("head", head),
        ("qkv", attention),
        ("attn_out", attention),
        ("mlp_up", mlp),
        ("mlp_down", mlp),
    ):
        if name is not None:
            parts[part] = name
    names = list(linears)
    if head is not None and "head" not in names:
        useless = "head has no effect on this model, its head is the embedding"
        raise ValueError(Sentence(f"{useless}: set embed", f"{useless}: use --embed"))
    return {name: parts.get(name.rpartition(".")[2], recipe) for name in names}


def describe(recipe: str, **options: str | None) -> str:
    """Return the recipe as the flat file records it, for example "q4" or "q4 head=f16"."""
    return " ".join([recipe, *(f"{k}={v}" for k, v in options.items() if v is not None)])
