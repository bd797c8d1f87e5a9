"""Planted defects are caught, and what is not defective is not: the emulated tests can fail.

Nearly all of it is left to the proofs: it takes minutes, and only a change of the kernels, of their
tests or of the defects themselves can change what comes out.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from backends import _emulated
from cuda import variants
from cuda.mutations import MUTATIONS, Mutation
from filelock import FileLock

NATIVE = Path(os.environ["PYTHIA_RT_TESTING_DIR"])
KINDS = ("plain", "address", "thread", "ptx75", "ptx80")
# What nvcc makes of the kernels has no test of its own elsewhere.
ALWAYS = ("ptx80",)
# The thread sanitizer sees races in any order, but copies land early in random ones alone.
ORDERS = {"thread": "fifo,random", "address": "fifo"}
needs_nvcc = pytest.mark.skipif(variants.find_nvcc() is None, reason="nvcc is not installed")


def with_marks(kind: str, is_proof: bool) -> list[pytest.MarkDecorator]:
    marks = [needs_nvcc] if kind.startswith("ptx") else []
    return [*marks, pytest.mark.proof] if is_proof else marks


def require(kind: str) -> None:
    if "PYTHIA_RT_EMULATED_DIR" in os.environ:
        pytest.skip("this is a run on one of the variants")
    for library in variants.RUNTIMES.get(kind, []):
        if not variants.find_library(NATIVE, library):
            pytest.skip(f"the compiler has no {library}")


def base_of(kind: str, factory: pytest.TempPathFactory) -> Path:
    """The kind without a defect, built once for all workers of a run."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / f"variant-{kind}"
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "_emulated.so").exists():
            variants.make(folder, NATIVE, kind)
    return folder


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=with_marks(kind, kind not in ALWAYS)) for kind in KINDS]
)
def test_no_defect(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every case passes in every build; PTX is compared with the source's results."""
    require(kind)
    folder = base_of(kind, tmp_path_factory)
    done = variants.check(folder, NATIVE, kind, "test", ORDERS.get(kind, "fifo,skew"))
    assert done.returncode == 0, done.stdout[-3000:] + variants.report(folder)


@pytest.mark.parametrize(
    "mutation",
    [pytest.param(m, marks=with_marks(m.kind, True), id=f"{m.kind}: {m.name}") for m in MUTATIONS],
)
def test_defect(
    mutation: Mutation, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    require(mutation.kind)
    kind = mutation.kind
    base = base_of(kind, tmp_path_factory)
    folder = variants.make(
        tmp_path, NATIVE, kind, change=mutation.change, only=mutation.only, base=base
    )
    done = variants.check(folder, NATIVE, kind, mutation.tests, ORDERS.get(kind, "fifo,skew"))
    assert done.returncode not in (0, 5), "nobody noticed" + done.stdout[-500:]
    if kind == "thread":
        assert "data race" in variants.report(folder), done.stdout[-500:]
    if kind in ("plain", "ptx75", "ptx80"):
        assert "1 failed" in done.stdout, done.stdout[-500:] + done.stderr[-500:]


def test_there_are_enough() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 16
    assert {mutation.kind for mutation in MUTATIONS} == set(KINDS)
    assert _emulated.cuda_unavailable() == ""
