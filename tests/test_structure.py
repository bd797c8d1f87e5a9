"""The repository's shape: who may include or import whom, and what must not be written anywhere.

The rules are those of ARCHITECTURE.md. They read the checkout, so they run without a build; only
the last test compiles, to look at the symbols of the objects that are built once per ISA.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
NATIVE = ROOT / "tests" / "native"  # C++ that the test extensions alone have
PYPROJECT = ROOT / "pyproject.toml"
MAX_LINES = 450

# component -> what it may include besides itself; a component is a folder of csrc/ or of
# tests/native/, or a file where the rule is about one file. The longest matching name counts.
ALL = frozenset(
    {
        "backend",
        "backend/backend.h",
        "backend/stage.h",
        "base",
        "cache",
        "calibration",
        "cuda/cuda.h",
        "formats",
        "forward",
        "kernels",
        "model",
        "sampling",
        "engine",
    }
)
ALLOWED_INCLUDES: dict[str, frozenset[str]] = {
    "base": frozenset(),
    "simd": frozenset({"base"}),
    "formats": frozenset({"base"}),
    "kernels": frozenset({"base", "simd", "formats"}),
    "backend/backend.h": frozenset({"base", "formats"}),
    "backend": frozenset({"base", "formats", "kernels", "backend/backend.h"}),
    "backend/stage.h": frozenset({"backend/backend.h"}),
    "cuda": frozenset({"base", "formats", "backend/backend.h"}),
    "cuda/cuda.h": frozenset({"backend/backend.h"}),
    "cache": frozenset({"base", "formats", "backend/backend.h", "backend/stage.h"}),
    "model": frozenset({"base", "formats", "backend/backend.h", "backend/stage.h"}),
    "forward": frozenset(
        {"base", "formats", "backend/backend.h", "backend/stage.h", "cache", "model"}
    ),
    "sampling": frozenset({"base"}),
    "calibration": frozenset({"base", "formats"}),
    "engine": ALL,
    "writing": frozenset({"base", "cache", "engine", "formats", "forward", "kernels", "sampling"}),
    "bindings": ALL | {"writing"},
    # In tests/native; nothing that ships may include them.
    "limits": frozenset({"base", "simd", "formats", "kernels"}),
    "timing": frozenset({"base", "formats", "kernels", "limits", "backend", "backend/backend.h"}),
    "testing": ALL | {"simd", "bindings", "emulator", "limits", "timing", "writing"},
    "emulator": frozenset({"base", "cuda"}),
    # It has the emulator stand in for nvcc's headers.
    "cuda/port.cuh": frozenset({"cuda", "emulator"}),
}

GENERATED = {"isas.inc"}  # by CMake, from its list of ISAs; "@" marks a template's own name

# Python component -> the components it may import.
ALLOWED_IMPORTS: dict[str, frozenset[str]] = {
    "pythia_rt.convert": frozenset({"pythia_rt._core", "pythia_rt.__version__"}),
    "pythia_rt": frozenset({"pythia_rt._core", "pythia_rt.convert"}),
    "bench": frozenset({"pythia_rt._core", "pythia_rt.convert", "pythia_rt"}),
    "tests": frozenset({"pythia_rt._core", "pythia_rt.convert", "pythia_rt", "bench"}),
}
FOLDERS = {
    "convert": "pythia_rt.convert",
    "pythia_rt": "pythia_rt",
    "bench": "bench",
    "tests": "tests",
}

# What is directly in convert/, or a folder of it -> what of the others that may import; what is not
# named may import all, and none of these may import that.
CONVERT_IMPORTS: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "lazy": frozenset(),
    "progress": frozenset({"files"}),
    "stopping": frozenset(),
    "threads": frozenset({"errors"}),
    "files": frozenset({"errors"}),
    "flatfile": frozenset({"errors", "files"}),
    "plan": frozenset({"flatfile"}),
    "source": frozenset({"errors", "files", "flatfile", "lazy", "stopping"}),
    "text": frozenset({"errors", "files", "flatfile"}),
    "quantise": frozenset({"errors", "files", "flatfile", "plan", "source", "stopping"}),
    "architectures": frozenset({"errors", "flatfile", "plan", "source"}),
    "gguf": frozenset({"errors", "files", "flatfile", "plan", "source", "text", "architectures"}),
}

INTRINSICS = re.compile(
    r"\b(?:_mm(?:256|512)?_\w+|__m(?:128|256|512)[id]?|v(?:ld|st)\d+q?_\w+|v\w+q?_[fsu](?:8|16|32|64)"
    r"|(?:float|u?int)\d+x\d+_t)\b|<(?:[a-z]*mmintrin|immintrin|x86intrin|arm_neon|arm_sve)\.h>"
)


def repository_files(*suffixes: str) -> list[Path]:
    """The files git tracks or would track, ending in one of `suffixes` (all files without any)."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    paths = [ROOT / name for name in listed.split("\0") if name]
    return sorted(p for p in paths if p.is_file() and (not suffixes or p.suffix in suffixes))


def text_files() -> Iterator[tuple[str, str]]:
    """(name, text) of every text file that people wrote: not data, nor the bundled model."""
    for path in repository_files():
        name = path.relative_to(ROOT).as_posix()
        is_data = name.startswith(("pythia_rt/demo/", "tests/data/")) and path.suffix != ".md"
        if name == "LICENSE" or is_data:
            continue
        raw = path.read_bytes()
        if b"\0" not in raw:
            yield name, raw.decode("utf-8")


def component_of(name: str) -> str:
    """The component of a path below csrc/; the files directly in it are the engine's."""
    if "/" not in name:
        return "engine"
    matching = [c for c in ALLOWED_INCLUDES if name == c or name.startswith(c + "/")]
    assert matching, f"csrc/{name} belongs to no component: add its folder to ALLOWED_INCLUDES"
    return max(matching, key=len)


def c_sources() -> list[tuple[str, Path]]:
    """(name, path) of the files below csrc/ and tests/native/, the name as others include it."""
    return [
        (path.relative_to(root).as_posix(), path)
        for root in (CSRC, NATIVE)
        for path in repository_files()
        if path.is_relative_to(root) and path.name != "CMakeLists.txt"
    ]


def code_without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)


def test_cpp_includes_follow_the_dependency_rule() -> None:
    broken = []
    for name, path in c_sources():
        component = component_of(name)
        for included in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.M):
            if included in GENERATED or "@" in included:
                continue
            if not any((root / included).is_file() for root in (CSRC, NATIVE)):
                broken.append(f'{name}: "{included}" is no file below csrc/ or tests/native/')
                continue
            target = component_of(included)
            inside = target == component or target.startswith(component + "/")
            if not inside and target not in ALLOWED_INCLUDES[component]:
                broken.append(
                    f'{name}: includes "{included}", but {component} may not use {target}'
                )
    assert not broken, "\n".join(broken)


def test_intrinsics_stand_only_in_simd() -> None:
    broken = [
        f"{name}: {match.group()}"
        for name, path in c_sources()
        if not name.startswith("simd/")
        for match in [INTRINSICS.search(code_without_comments(path.read_text()))]
        if match
    ]
    assert not broken, "\n".join(broken)


def test_no_switch_has_a_default() -> None:
    """So the compiler finds what is missing for a new item of a list."""
    broken = [
        name
        for name, path in c_sources()
        if not name.startswith("emulator/")  # its switches are over numbers of CUDA's
        and re.search(r"\bdefault\s*:", code_without_comments(path.read_text()))
    ]
    assert not broken, "\n".join(broken)


def test_the_core_neither_aborts_nor_prints() -> None:
    forbidden = re.compile(
        r"\b(?:abort|exit|_Exit|quick_exit|terminate|assert|f?printf|puts|perror)\s*\(|\bstd::c(?:out|err|log)\b"
    )
    broken = [
        f"{name}: {match.group()}"
        for name, path in c_sources()
        for match in [forbidden.search(code_without_comments(path.read_text()))]
        if match
    ]
    assert not broken, "\n".join(broken)


def python_files() -> Iterator[tuple[Path, str]]:
    """(path, component) of every Python file of the four components."""
    for path in repository_files(".py"):
        component = FOLDERS.get(path.relative_to(ROOT).parts[0])
        if component is not None:
            yield path, component


def is_type_checking(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def imported_modules(path: Path, component: str, *, at_run_time: bool = False) -> Iterator[str]:
    """The absolute names a file imports, inside functions too: `from a import b` gives "a.b".

    With `at_run_time`, what only a type checker reads is left out.
    """
    inner = path.relative_to(ROOT).with_suffix("").parts[1:]
    package = [component, *inner][:-1]
    tree = ast.parse(path.read_text(), str(path))
    unread = {
        inside
        for node in ast.walk(tree)
        if at_run_time and is_type_checking(node)
        for inside in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in unread:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def python_component(module: str) -> str | None:
    """The component a module belongs to; None for one that is not of this repository."""
    parts = ("_core", "convert", "__version__")
    for component in (*(f"pythia_rt.{part}" for part in parts), "pythia_rt", "bench", "tests"):
        if module == component or module.startswith(component + "."):
            return component
    return None


def test_python_imports_follow_the_dependency_rule() -> None:
    broken = []
    for path, component in python_files():
        for module in imported_modules(path, component):
            target = python_component(module)
            if target not in (None, component, *ALLOWED_IMPORTS[component]):
                broken.append(f"{path.relative_to(ROOT)}: {component} may not import {module}")
    assert not broken, "\n".join(broken)


def test_the_folders_of_convert_follow_the_dependency_rule() -> None:
    prefix = "pythia_rt.convert."
    broken = []
    for path, component in python_files():
        part = path.relative_to(ROOT).with_suffix("").parts[1]
        if component != "pythia_rt.convert" or part not in CONVERT_IMPORTS:
            continue
        for module in imported_modules(path, component):
            target = module.removeprefix(prefix).split(".")[0]
            if module.startswith(prefix) and target not in {part, *CONVERT_IMPORTS[part]}:
                broken.append(f"{path.relative_to(ROOT)}: {part} may not import {module}")
    assert not broken, "\n".join(broken)


def test_the_package_imports_only_what_it_declares() -> None:
    """What users may choose to install counts, what only tests need does not."""
    # Read here and not of what is installed, whose metadata may be older: lists of strings.
    lists = dict(re.findall(r"^([\w-]+) = (\[.*?\])$", PYPROJECT.read_text(), re.M | re.S))
    declared = {
        re.split(r"[^\w.-]", requirement, maxsplit=1)[0].replace("-", "_").lower()
        for name in ("dependencies", "plot", "chat", "grammar", "lm-eval", "arrow", "ray")
        for requirement in re.findall(r'"(.+?)"', lists[name])
    }
    broken = []
    for path, component in python_files():
        if component in ("bench", "tests"):
            continue
        for module in imported_modules(path, component, at_run_time=True):
            top = module.split(".")[0]
            if top not in declared | sys.stdlib_module_names | {"pythia_rt"}:
                broken.append(f"{path.relative_to(ROOT)}: {top} is not a declared dependency")
    assert not broken, "\n".join(broken)


def test_the_library_does_not_print() -> None:
    """Only the command line writes to the terminal, and it does so through click."""
    broken = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, component in python_files()
        if component in ("pythia_rt", "pythia_rt.convert")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert not broken, "\n".join(broken)


def test_files_are_short() -> None:
    generated = {"pythia_rt/_core.pyi"}
    long = [
        f"{name}: {lines} lines"
        for name, text in text_files()
        if name not in generated and (lines := text.count("\n")) > MAX_LINES
    ]
    assert not long, f"files of more than {MAX_LINES} lines: " + ", ".join(long)


def test_nothing_names_a_registry_or_a_build_machine() -> None:
    # Written in pieces, so that this file passes its own test.
    hosts = [
        "py" + "pi.org",
        "python" + "hosted.org",
        "deb.debian" + ".org",
        "registry.npm" + "js.org",
    ]
    folder = re.compile(
        r"(?<![\w.~\]-])/(?:" + "|".join(["ro" + "ot", "ho" + "me", "wo" + "rk"]) + r")/\w"
    )
    broken = []
    for name, text in text_files():
        broken += [f"{name}: names {host}" for host in hosts if host in text]
        broken += [
            f"{name}: names the folder {match.group()}..." for match in folder.finditer(text)
        ]
    assert not broken, "\n".join(broken)


def test_nothing_reaches_outside_the_checkout() -> None:
    """A plain clone has all that its tests, benchmarks and scripts read."""
    outside = re.compile("ROOT" + r"\.parent|\.\./sha" + "red|work" + "place")
    broken = [
        f"{name}: {match.group()}"
        for name, text in text_files()
        for match in outside.finditer(text)
    ]
    assert not broken, "\n".join(broken)


def test_proofs_can_draw_more_examples() -> None:
    fixed = re.compile(r"max_examples=\d+")
    broken = [
        f"{path.name}: {match.group()}; write examples(...) of tests/drawn.py"
        for path in sorted((ROOT / "tests").glob("test_*.py"))
        for match in fixed.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not broken, "\n".join(broken)


def tool(name: str) -> str:
    """A program of this environment, else of the machine."""
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(name, path=search)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.mark.parametrize(("system", "first"), [("", "i8mm"), ("-DAPPLE=1", "neon")])
def test_apple_gets_i8mm_only_where_it_is_asked_for(
    system: str, first: str, tmp_path: Path
) -> None:
    script = tmp_path / "list.cmake"
    script.write_text(
        f'include({ROOT / "cmake" / "isas.cmake"})\nmessage(STATUS "${{PYTHIA_RT_ALL_ISAS}}")\n'
    )
    command = [tool("cmake"), *([system] if system else []), "-P", str(script)]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert re.findall(r"(\w+)\|aarch64\|", listed)[0] == first


def test_isa_objects_define_no_weak_symbol_outside_their_namespace(tmp_path: Path) -> None:
    """An inline function that the linker kept from an AVX-512 object would crash elsewhere.

    Without optimisation every inline function that is used is emitted, so none can hide.
    """
    nm, filter_names = tool("nm"), tool("c++filt")
    configure = [tool("cmake"), "-S", str(ROOT), "-B", str(tmp_path), "-G", "Ninja"]
    ninja = f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"
    options = [ninja, "-DCMAKE_BUILD_TYPE=Debug", "-DPYTHIA_RT_PYTHON=OFF", "-DPYTHIA_RT_CUDA=OFF"]
    subprocess.run([*configure, *options], check=True, capture_output=True)
    build = [tool("cmake"), "--build", str(tmp_path), "--target", "isa_objects"]
    subprocess.run(build, check=True, capture_output=True)

    objects = sorted(tmp_path.rglob("isa_*.o"))
    assert objects, "the build made no object isa_<name>.cc.o"
    broken = []
    for path in objects:
        isa = path.name.removeprefix("isa_").split(".")[0]
        # Mangled names: _ZN9pythia_rt4avx2..., also of statics, guards and tables within.
        own = re.compile(rf"_Z(?:T[VTIS]|GV|Z)*N[KVrRO]*9pythia_rt{len(isa)}{isa}")
        listed = subprocess.run([nm, path], check=True, capture_output=True, text=True).stdout
        weak = [line.split()[-1] for line in listed.splitlines() if line.split()[-2] in "VWu"]
        # References to the exception personality are weak data that holds no code.
        foreign = [name for name in weak if not own.match(name) and not name.startswith("DW.ref.")]
        if foreign:
            named = subprocess.run(
                [filter_names, *foreign], check=True, capture_output=True, text=True
            ).stdout.splitlines()
            broken.append(f"{path.name}: " + ", ".join(named[:10]))
    assert not broken, "\n".join(broken)
