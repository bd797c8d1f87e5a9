"""Fixtures for every test. What they iterate over comes from the core's own lists."""

from __future__ import annotations

import lzma
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"  # its README.md says where everything is from

# The checkout's pythia_rt/ has no compiled core, and "python -m pytest" puts the checkout first in
# the path: the installed package is what is tested. At the end of the path it still brings bench.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
sys.path.append(str(ROOT))

import drawn  # noqa: E402
from local_hub import LocalHub  # noqa: E402

from pythia_rt import Engine, Model, _core  # noqa: E402
from pythia_rt.convert import convert  # noqa: E402
from pythia_rt.model import DEMO_FOLDER  # noqa: E402

drawn.load_profile()

os.environ.setdefault("PYTHIA_RT_BENCH_PAUSE", "0")

# What a shell runs in the background ignores Ctrl-C; tests and the processes they start must not.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips, with the reason, what needs a device that is not there."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    from backends import why_no_device

    if reason := why_no_device():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(params=_core.isa_names())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each instruction set of this processor in turn; models made meanwhile use it."""
    name: str = request.param
    monkeypatch.setenv("PYTHIA_RT_ISA", name)
    return name


@pytest.fixture(params=_core.format_names())
def weight_format(request: pytest.FixtureRequest) -> str:
    """Each weight format in turn."""
    name: str = request.param
    return name


@pytest.fixture(params=_core.kv_format_names())
def kv_format(request: pytest.FixtureRequest) -> str:
    """Each number format of the key-value cache in turn."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def demo_folder() -> Path:
    """The bundled checkpoint, in Hugging Face layout."""
    return DEMO_FOLDER


@pytest.fixture(scope="session")
def demo_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a recipe's name to the demo model's flat file, converted once."""
    folder = tmp_path_factory.mktemp("demo")

    def find(recipe: str) -> Path:
        path = folder / f"{recipe}.safetensors"
        return path if path.exists() else convert(DEMO_FOLDER, path, format=recipe)

    return find


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for converted files, empty at first."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def model(cache: Path) -> Model:
    """The demo model, converted into `cache`."""
    return Model.demo(cache_dir=cache)


@pytest.fixture
def engine(model: Model) -> Iterator[Engine]:
    """An engine of the model, which cancels what a test leaves."""
    with Engine(model) as engine:
        yield engine
        engine.close(cancel=True)


@pytest.fixture(scope="session")
def technical_text() -> str:
    """About 36,000 tokens of technical English that the demo model was not trained on."""
    return (DATA / "technical.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def neox_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-NeoX's tokenizer.json, which Pythia's checkpoints have."""
    path = tmp_path_factory.mktemp("neox") / "tokenizer.json"
    path.write_bytes(lzma.decompress((DATA / "gpt-neox-tokenizer.json.xz").read_bytes()))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small checkpoint to convert."""
    from convert_sources import (
        write_checkpoint,
    )  # with torch, which the tests of a device do without

    return write_checkpoint(tmp_path / "source")


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """An empty hub on this machine, which this process and those it starts use; the hub's cache is
    tmp_path / "hub", that of flat files tmp_path / "flat-cache"."""
    from huggingface_hub import constants

    from pythia_rt.convert.source import retry

    monkeypatch.setattr(retry, "PAUSE", 0.001)
    with LocalHub(tmp_path / "served") as hub:
        for name, value in hub.environment(tmp_path / "hub").items():
            monkeypatch.setenv(name, value)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_DOWNLOAD_TIMEOUT"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        # What the hub's library read of the environment when it was imported.
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("PYTHIA_RT_CACHE", str(tmp_path / "flat-cache"))
        yield hub


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder; what is written is out / "flat"."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture(scope="session")
def auto() -> Any:
    """The class of transformers that loads a folder's tokenizer."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    return transformers.AutoTokenizer
