"""Which modules come with the package, and when: `import pythia_rt` takes milliseconds by bringing
nothing, and what one user in ten needs comes when it is asked for."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

# What the package's first file imports itself; whatever Python needs for these is Python's.
FIRST = "__future__, importlib, typing"
LIBRARIES = {"numpy", "tokenizers"}  # of others, once a model is used


def modules_after(statement: str, folder: Path) -> set[str]:
    """What a fresh Python has imported besides FIRST after the statement."""
    script = (
        f"import sys, {FIRST}; before = set(sys.modules); {statement}\n"
        "print(*set(sys.modules) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=folder
    )
    return set(done.stdout.split())


def libraries(modules: set[str]) -> set[str]:
    """The packages among them that neither Python nor pythia_rt brings."""
    found = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names)
    return {name for name in found if not name.startswith("_")} - {"pythia_rt"}


@pytest.mark.parametrize(
    "statement", ["import pythia_rt", "import pythia_rt; pythia_rt.__version__; dir(pythia_rt)"]
)
def test_the_package_alone_imports_nothing(tmp_path: Path, statement: str) -> None:
    """But for the lines that load its names later, and the folder that they are in."""
    own = {"pythia_rt", "pythia_rt.convert", "pythia_rt.convert.lazy"}
    assert modules_after(statement, tmp_path) == own


@pytest.mark.parametrize(
    "name", ["pythia_rt", "pythia_rt.convert", "pythia_rt.convert.source", "pythia_rt.insides"]
)
def test_names_that_come_later_are_those_that_type_checkers_see(name: str) -> None:
    package = importlib.import_module(name)
    tree = ast.parse(inspect.getsource(package))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    assert isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
    seen = {}
    for node in block.body:
        if isinstance(node, ast.Import):
            seen |= {each.asname: importlib.import_module(each.name) for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = importlib.import_module("." * node.level + (node.module or ""), name)
            seen |= {each.name: getattr(base, each.name) for each in node.names}
    assert set(package.__all__) - {"__version__"} == set(seen)
    assert all(getattr(package, each) is value for each, value in seen.items())
    assert dir(package) == sorted(package.__all__)
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'other'"):
        _ = package.other


def test_the_command_line_says_help_without_the_core(tmp_path: Path) -> None:
    modules = modules_after("import pythia_rt.cli", tmp_path)
    assert libraries(modules) == {"click"}
    assert "pythia_rt._core" not in modules


def test_a_model_brings_what_it_computes_with(tmp_path: Path) -> None:
    modules = modules_after("import pythia_rt; pythia_rt.Model", tmp_path)
    assert libraries(modules) == LIBRARIES


def test_every_public_name_without_what_few_need(tmp_path: Path) -> None:
    """No hub, no grammar library, no harness, no PEFT, no chat templates, no plots, no PyTorch."""
    statement = "import pythia_rt; [getattr(pythia_rt, name) for name in pythia_rt.__all__]"
    assert libraries(modules_after(statement, tmp_path)) <= LIBRARIES | {"tqdm"}
