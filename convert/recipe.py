"""Recipes: which weight format each matrix gets."""

from __future__ import annotations

from collections.abc import Iterable

from pythia_rt import _core

# The head is most of a small model's work and sensitive, the embedding is read one row at a time:
# both stay at 8 bits where the layers have 4.
_EMBED_AND_HEAD = {"q4": "q8"}


def choose_formats(
    recipe: str, linears: Iterable[str], *, embed: str | None = None, head: str | None = None
) -> dict[str, str]:
    """Return {linear name: format} for the matrices named in `linears`.

    `recipe` is a format name, for all layers; `embed` and `head` override what it says about the
    two ends. Raises ValueError for a name that is no format, and for `head` of a tied model.
    """
    known = _core.format_names()
    for option, name in (("format", recipe), ("embed", embed), ("head", head)):
        if name is not None and name not in known:
            raise ValueError(f"{option} {name!r} is unknown: choose one of {', '.join(known)}")
    ends = _EMBED_AND_HEAD.get(recipe, recipe)
    special = {"embed": embed or ends, "head": head or ends}
    names = list(linears)
    if head is not None and "head" not in names:
        raise ValueError("head has no effect on this model, its head is the embedding: set embed")
    return {name: special.get(name, recipe) for name in names}


def describe(recipe: str, embed: str | None, head: str | None) -> str:
    """Return the recipe as the flat file records it, for example "q4" or "q4 head=f16"."""
    options = [f"{k}={v}" for k, v in (("embed", embed), ("head", head)) if v is not None]
    return " ".join([recipe, *options])
