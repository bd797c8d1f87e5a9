"""Recipes: which weight format each matrix gets."""

from __future__ import annotations

from collections.abc import Sequence

from pythia_rt import _core
from pythia_rt._core import Linear

from ..errors import Sentence

# Which format the components of a model get, where a recipe is more than one format for all of
# them. For bits well spent: an error in attention, in its values above all, costs several times as
# much as one in the MLP, and attention is a third of a layer (docs/quantisation.md has the
# figures). The embedding is read one row at a time and may be large; the head is most of a small
# model's work.
RECIPES = {
    "q4": {"embed": "q8", "attention": "q5", "mlp": "q4", "head": "q6"},
}
# The embedding of a model that has it as its head too, unless another is asked for. It has two
# errors, and nothing can be balanced against it: below 8 bits it costs more than all the layers.
TIED = {"q4": "q8", "q5": "q8", "q6": "q8"}


def check_formats(recipe: str, **components: str | None) -> None:
    """Raise ValueError for a recipe, or a format of a component of the model, that there is not."""
    known = _core.format_names()
    given = {option: name for option, name in components.items() if name is not None}
    for option, name in {"format": recipe, **given}.items():
        if name not in known:
            raise ValueError(f"{option} {name!r} is unknown: choose one of {', '.join(known)}")


def choose_formats(
    recipe: str, linears: Sequence[Linear], **components: str | None
) -> dict[str, str]:
    """Return {linear name: format} for the matrices of a model.

    `recipe` is a name of RECIPES, or a format for all matrices but what TIED says; `components`
    (embed, attention, mlp, head) override what it says about these. Raises ValueError for a name
    that is no format, and for `head` of a tied model.
    """
    check_formats(recipe, **components)
    tied = not any(matrix.component == "head" for matrix in linears)
    if tied and components.get("head") is not None:
        useless = "head has no effect on this model, its head is the embedding"
        raise ValueError(Sentence(f"{useless}: set embed", f"{useless}: use --embed"))
    given = {component: name for component, name in components.items() if name is not None}
    chosen = dict(RECIPES.get(recipe, {}))
    if tied and recipe in TIED:
        chosen["embed"] = TIED[recipe]
    chosen |= given
    return {matrix.name: chosen.get(matrix.component, recipe) for matrix in linears}


def describe(recipe: str, **options: str | None) -> str:
    """Return the recipe as the flat file records it, for example "q4" or "q4 head=f16"."""
    return " ".join([recipe, *(f"{k}={v}" for k, v in options.items() if v is not None)])
